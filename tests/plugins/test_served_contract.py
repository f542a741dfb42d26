"""Every route of every domain's application: bad bodies of any form, what schemathesis finds by the OpenAPI file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import hypothesis
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, settings

from heliostat import run as runs
from heliostat.predict import Predictor
from heliostat.serve.app import build_app
from heliostat.serve.limits import Limits
from heliostat.serve.schema import Served
from heliostat.testing.bad_records import bad_bodies
from heliostat.testing.bad_requests import MARKER
from heliostat.train.launch import train

DOMAINS = ("finance", "helpdesk", "medical", "recommendation", "sentiment", "translation")
NAME = "asked"
BOUNDS = settings(deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))


class Domain(NamedTuple):
    name: str
    client: TestClient
    predictor: Predictor


@pytest.fixture(scope="module", params=DOMAINS)
def domain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Domain]:
    """The model of a domain's tiny run after one step, behind its HTTP."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELIOSTAT_HOME", str(tmp_path_factory.mktemp("home")))
        trained = train(runs.load(f"{request.param}/tiny", ["data.engine=local", "train.max_steps=1"]))
        predictor = Predictor.load(trained.checkpoint, threads=1)
        app = build_app(predictor, Served(NAME, 1), Limits(timeout_s=60))
        with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
            yield Domain(request.param, client, predictor)


def check(case: str, status: int, text: str, reply: Any) -> None:
    assert status < 500, (case, text[:300])
    if status >= 400:
        assert MARKER not in text, case
        assert len(text) < 1200, case
        error = reply["error"]
        assert (error if isinstance(error, str) else error["message"]).endswith("."), case


def test_bad_bodies_on_every_route(domain: Domain) -> None:
    statuses: Counter[int] = Counter()
    for bad in bad_bodies(NAME, dict(domain.predictor.head.samples[0])):
        response = domain.client.post(bad.path, content=bad.body, headers=bad.headers)
        stream = response.status_code == 200 and bad.path.endswith(":stream")
        check(f"{bad.path} {bad.name}", response.status_code, response.text, None if stream else response.json())
        statuses[response.status_code] += 1
    print(domain.name, dict(sorted(statuses.items())))
    assert statuses[422] > 50
    assert set(statuses) <= {200, 400, 404, 405, 413, 415, 422}
    samples = [dict(sample) for sample in domain.predictor.head.samples]
    after = domain.client.post(f"/v1/models/{NAME}:predict", json={"instances": samples})
    assert after.json()["predictions"] == json.loads(json.dumps(domain.predictor.predict(samples)))


def test_the_samples_as_tensors_get_the_same_answers(domain: Domain) -> None:
    samples = [dict(sample) for sample in domain.predictor.head.samples]
    taken = {each["name"]: each for each in domain.client.get(f"/v2/models/{NAME}").json()["inputs"]}
    inputs = []
    for field, tensor in taken.items():
        cells = [sample.get(field) for sample in samples]
        if all(cell is None for cell in cells):
            continue
        if tensor.get("parameters"):
            cells = [json.dumps(cell) for cell in cells]
        data = ["" if cell is None else cell for cell in cells]
        inputs.append({**tensor, "shape": [len(samples)], "data": data})
    response = domain.client.post(f"/v2/models/{NAME}/infer", json={"inputs": inputs})
    assert response.status_code == 200, response.text
    for output in response.json()["outputs"]:
        told = [answer[output["name"]] for answer in domain.predictor.predict(samples)]
        names = output.get("parameters", {}).get("names")
        if names:
            told = [cell[name] for cell in told for name in names]
        elif output["datatype"] == "BYTES" and output.get("parameters"):
            told = [json.dumps(cell, ensure_ascii=False, default=str) for cell in told]
        assert output["data"] == told, output["name"]


def test_schemathesis_finds_nothing(domain: Domain) -> None:
    """Cases that fit the OpenAPI file and that break it: no 5xx, no echo, no answer that the file does not name."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed (heliostat[dev])")
    from schemathesis import GenerationMode
    from schemathesis.checks import CHECKS

    schema = schemathesis.openapi.from_asgi("/openapi.json", domain.client.app, headers={"Host": "127.0.0.1"})
    held = [CHECKS.get_one(name) for name in ("status_code_conformance", "response_schema_conformance")]
    known = domain.client.get("/openapi.json").text
    sent: Counter[str] = Counter()

    def ask(case: Any) -> None:
        response = case.call()
        text = response.content.decode()
        assert response.status_code < 500, (case.operation.label, case.body, text[:300])
        case.validate_response(response, checks=held)
        if response.status_code >= 400:
            for word in _words(case.body):
                assert word in known or word not in text, (case.operation.label, word)
        sent[case.operation.label] += 1

    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if operation.method == "get" and mode is GenerationMode.NEGATIVE:
                continue
            examples = 8 if operation.method == "post" else 1
            cases = operation.as_strategy(generation_mode=mode)
            bounds = settings(
                max_examples=examples,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            )
            bounds(hypothesis.given(cases)(ask))()
    print(domain.name, sum(sent.values()), "requests to", len(sent), "operations")
    assert f"POST /v1/models/{NAME}:predict" in sent
    assert f"POST /v2/models/{NAME}/infer" in sent


def _words(value: Any) -> Iterator[str]:
    """The texts in a body that are long enough to be known again."""
    if isinstance(value, str) and len(value) >= 8:
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _words(str(key))
            yield from _words(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _words(inner)
