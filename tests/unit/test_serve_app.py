"""A model's application without Ray: every bad request, the good ones, the token, OpenAPI and the metrics."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import Field

from heliostat.plugin import Record
from heliostat.serve.app import ModelRoutes, build_app
from heliostat.serve.guard import Access
from heliostat.serve.index import IndexRoutes, merged
from heliostat.serve.limits import Limits
from heliostat.serve.refusal import Refusal
from heliostat.serve.schema import RequestCheck, Served
from heliostat.serve.token import allowed_hosts, digest
from heliostat.testing.bad_requests import CHUNK, MARKER, BadRequest, bad_requests
from heliostat.testing.word_list import HOST, PREDICT, Polarity, Review, WordList, app_of, ask

TOKEN = "a-token-of-some-length"


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(app_of(), base_url=HOST, raise_server_exceptions=False) as client:
        yield client


def send_bad(case: BadRequest) -> tuple[httpx.Response, int]:
    """The answer, and how many chunks of a streamed body were read before it."""
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for chunk in case.chunks():
            read += 1
            yield chunk

    async def send(client: httpx.AsyncClient) -> httpx.Response:
        content = body() if case.num_chunks else case.body
        return await client.request(case.method, case.path or PREDICT, content=content, headers=case.headers)

    return ask(app_of(), send), read


def check_error(case: BadRequest, response: httpx.Response) -> None:
    assert 400 <= response.status_code < 500, case.name
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (case.status, case.code), (case.name, error)
    assert set(response.json()) == {"error"}
    assert set(error) == {"code", "message", "field", "request_id"}
    assert error["message"].endswith(".")
    assert error["request_id"] == response.headers["x-request-id"]
    assert MARKER not in response.text
    assert len(response.content) < 600


def test_every_bad_request_is_refused_in_one_shape() -> None:
    table = []
    for case in bad_requests("sentiment"):
        response, read = send_bad(case)
        table.append({"case": case.name, "status": response.status_code, "code": response.json()["error"]["code"]})
        print(f"{case.name:32} {response.status_code}  {table[-1]['code']}")
        check_error(case, response)
        assert read * CHUNK <= 2 << 20, "a body over the limit was read on"
    assert len(table) >= 50
    if folder := os.environ.get("HELIOSTAT_ARTIFACTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "bad_requests_app.json").write_text(json.dumps(table, indent=1), encoding="utf-8")


def index_app() -> FastAPI:
    names = ("sentiment", "temper")
    models = {name: ModelRoutes(WordList(), Served(name, 3), Limits(), Access()) for name in names}

    async def ask_model(name: str, what: str) -> Any:
        routes = models[name]
        return {"describe": routes.describe, "metrics": routes.metrics_text, "openapi": routes.app().openapi}[what]()

    return IndexRoutes(names, ask_model, Limits(), Access(hosts=allowed_hosts("127.0.0.1"))).app()


def test_the_index_above_several_models() -> None:
    with TestClient(index_app(), base_url=HOST) as client:
        listed = client.get("/v1/models").json()
        assert (listed["models"], [each["id"] for each in listed["data"]]) == (["sentiment", "temper"],) * 2
        assert client.get("/v1/models/temper").json()["name"] == "temper"
        schema = client.get("/openapi.json").json()
        assert {PREDICT, "/v1/models/temper:predict"} <= set(schema["paths"])
        assert {"SentimentRequest", "TemperRequest", "Review", "ErrorBody"} <= set(schema["components"]["schemas"])
        for reference in _references(schema):
            assert reference.removeprefix("#/components/schemas/") in schema["components"]["schemas"]
        client.get("/nowhere")
        metrics = client.get("/metrics").text
        assert metrics.count("# TYPE heliostat_queue_length gauge") == 1
        refused = [line for line in metrics.splitlines() if line.startswith("heliostat_errors_total")]
        assert len(refused) == 1, "what the index refuses is counted, under one name"
        assert 'kind="unknown_route",model="_index"' in refused[0]
        assert "temper" in client.get("/docs").text
        # No predicting thread was started for these two, so they are not ready, and it says so.
        assert client.get("/readyz").json()["error"]["code"] == "not_ready"
        for case in bad_requests("sentiment"):
            if case.status == 404 or case.code == "unknown_host":
                answer = client.request(case.method, case.path or PREDICT, content=case.body, headers=case.headers)
                assert (answer.status_code, answer.json()["error"]["code"]) == (case.status, case.code), case.name


def test_equal_names_of_unequal_schemas_are_kept_apart() -> None:
    def schema(path: str, kind: str) -> dict[str, Any]:
        use = {"schema": {"$ref": "#/components/schemas/Text"}}
        return {"paths": {path: use}, "components": {"schemas": {"Text": {"type": kind}}}}

    whole = merged([schema("/a", "string"), schema("/b", "number"), schema("/c", "string")])
    assert whole["components"]["schemas"] == {"Text": {"type": "string"}, "Text2": {"type": "number"}}
    assert [use["schema"]["$ref"][-5:] for use in whole["paths"].values()] == ["/Text", "Text2", "/Text"]


class Card(Record):
    kind: Literal["card"]


class Cash(Record):
    kind: Literal["cash"]


class Paid(Record):
    by: Card | Cash = Field(discriminator="kind")


def test_a_tag_that_names_no_kind_is_not_repeated() -> None:
    with pytest.raises(Refusal) as refused:
        RequestCheck(Paid, Limits()).rows({"instances": [{"by": {"kind": MARKER}}]})
    assert (refused.value.code, refused.value.field) == ("invalid_value", "instances[0].by")
    assert MARKER not in refused.value.message


def test_predicts_in_order_and_says_which_model_answered(client: TestClient) -> None:
    response = client.post(
        PREDICT, json={"instances": [{"text": "good"}, {"text": "bad"}, {"text": "I love it \U0001f600"}]}
    )
    assert response.status_code == 200
    body = response.json()
    assert [row["label"] for row in body["predictions"]] == ["positive", "negative", "positive"]
    assert body["model"] == {"name": "sentiment", "version": 3}
    assert body["latency_ms"] > 0


def test_the_request_id_is_the_clients_when_it_is_a_plain_word(client: TestClient) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert client.get("/healthz", headers={"X-Request-ID": "<script>"}).headers["x-request-id"] != "<script>"
    assert client.get("/nowhere", headers={"X-Request-ID": "abc-1"}).json()["error"]["request_id"] == "abc-1"


def test_the_field_at_fault_is_named(client: TestClient) -> None:
    response = client.post(PREDICT, json={"instances": [{"text": "a"}, {"text": "b"}, {"text": 5}]})
    assert response.json()["error"]["field"] == "instances[2].text"
    nested = client.post(PREDICT, json={"instances": [{"txet": "a"}]}).json()["error"]
    assert nested["code"] in {"missing_field", "unknown_field"}


def test_white_space_is_empty_whether_the_record_says_so_or_not() -> None:
    class Strict(Record):
        text: str = Field(min_length=1, pattern=r"\S")
        title: str = ""

    for record in (Review, Strict):
        with pytest.raises(Refusal) as refused:
            RequestCheck(record, Limits()).rows({"instances": [{"text": " \n"}]})
        assert (refused.value.code, refused.value.field) == ("empty_text", "instances[0].text")
    assert RequestCheck(Strict, Limits()).rows(
        {"instances": [{"text": "a", "title": " "}]}
    )  # it may be empty, says the record


def test_describes_the_model_for_a_demo(client: TestClient) -> None:
    body = client.get("/v1/models/sentiment").json()
    assert (body["name"], body["version"], body["ready"]) == ("sentiment", 3, True)
    assert body["takes"]["properties"]["text"]["maxLength"] == 20_000
    assert set(body["gives"]["properties"]) == {"label", "probabilities"}
    assert body["samples"] == list(Polarity.samples)
    assert body["notice"] == Polarity.notice
    in_openais_form = {"id": "sentiment", "object": "model", "created": 0, "owned_by": "heliostat"}
    assert client.get("/v1/models").json() == {"models": ["sentiment"], "object": "list", "data": [in_openais_form]}
    assert in_openais_form.items() <= body.items()


def test_openapi_is_typed_by_the_record(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    operation = schema["paths"][PREDICT]["post"]
    request = operation["requestBody"]["content"]["application/json"]
    assert request["schema"] == {"$ref": "#/components/schemas/SentimentRequest"}
    assert request["example"]["instances"][0] == Polarity.samples[0]
    schemas = schema["components"]["schemas"]
    assert schemas["Review"]["properties"]["text"]["description"] == "What a customer wrote."
    assert schemas["SentimentRequest"]["properties"]["instances"]["maxItems"] == 256
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/SentimentResponse"}
    assert operation["responses"]["422"]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")
    for reference in _references(schema):
        assert reference.removeprefix("#/components/schemas/") in schemas


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def test_the_docs_load_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert "Not for &lt;decisions&gt;." in page.text
    assert "src=" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_metrics_count_answers_by_route_and_code(client: TestClient) -> None:
    client.post(PREDICT, json={"instances": [{"text": "good"}, {"text": "bad"}]})
    client.post(PREDICT, json={"instances": []})
    client.get(f"/{MARKER}")
    text = client.get("/metrics").text
    assert 'code="200",model="sentiment",replica=' in text.replace('route="predict",', "")
    refused = next(line for line in text.splitlines() if 'route="predict"' in line and 'code="422"' in line)
    assert refused.endswith(" 1.0")
    assert 'route="other"' in text
    assert MARKER not in text
    assert "heliostat_batch_instances_sum" in text
    assert "heliostat_queue_length" in text
    assert "heliostat_request_seconds_bucket" in text


def test_everything_but_the_probes_asks_for_the_token() -> None:
    app = app_of(access=Access(token_hash=digest(TOKEN)))
    with TestClient(app, base_url="http://10.0.0.7") as client:
        for path in ("/docs", "/openapi.json", "/metrics", "/v1/models", "/v1/models/sentiment", "/nowhere"):
            response = client.get(path)
            assert response.status_code == 401, path
            assert response.headers["www-authenticate"] == "Bearer"
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        good = {"instances": [{"text": "good"}]}
        for wrong in ("Bearer", "Bearer wrong", f"Basic {TOKEN}", f"bearer{TOKEN}", "Bearer \xff"):
            headers = {b"Authorization": wrong.encode("latin-1")}
            assert client.post(PREDICT, json=good, headers=headers).json()["error"]["code"] == "unauthorized"
        assert client.post(PREDICT, json=good, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_hosts_that_are_allowed() -> None:
    with TestClient(app_of()) as client:
        for name in ("localhost:8000", "127.0.0.1", "[::1]:80", "LOCALHOST"):
            assert client.get("/healthz", headers={"Host": name}).status_code == 200, name
        for name in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""):
            assert client.get("/healthz", headers={"Host": name}).status_code == 400, name


def test_a_failing_model_answers_500_without_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(WordList):
        def predict(self, examples: Sequence[dict[str, Any]], *, max_tokens: int = 8192) -> list[dict[str, Any]]:
            raise RuntimeError(f"cannot cope with {examples}")

    app = build_app(Broken(), Served("sentiment", 3))
    with TestClient(app, raise_server_exceptions=False) as client:
        response = client.post(PREDICT, json={"instances": [{"text": MARKER}]})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert MARKER not in response.text
    assert MARKER not in caplog.text
    assert response.json()["error"]["request_id"] in caplog.text


def test_an_answer_that_is_no_json_is_our_fault() -> None:
    class NotANumber(WordList):
        def predict(self, examples: Sequence[dict[str, Any]], *, max_tokens: int = 8192) -> list[dict[str, Any]]:
            return [{"label": "positive", "probabilities": {"positive": float("nan")}} for _ in examples]

    with TestClient(build_app(NotANumber(), Served("sentiment", 3)), raise_server_exceptions=False) as client:
        response = client.post(PREDICT, json={"instances": [{"text": "good"}]})
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
