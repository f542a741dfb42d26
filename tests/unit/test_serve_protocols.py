"""Clients that others wrote talk to it, over real HTTP: one model at an address, and two behind the index."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from heliostat.component import Row
from heliostat.predict import Predictor
from heliostat.serve import relay
from heliostat.serve.app import ModelRoutes
from heliostat.serve.client import AsyncClient, Client, RefusedError
from heliostat.serve.guard import Access
from heliostat.serve.index import IndexRoutes
from heliostat.serve.limits import Limits
from heliostat.serve.schema import Served
from heliostat.serve.switch import Answered, CanaryRoute, Routes
from heliostat.serve.token import allowed_hosts, digest
from heliostat.testing import serving as server

KEY = "a-token-of-some-length"
TEXTS = ["a lovely day and a warm sun", "he lost his keys", "größer 漢字"]


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    with server.listening(app) as url:
        yield url.removeprefix("http://")


@pytest.fixture(scope="module")
def predictor(tiny_checkpoint: Path) -> Predictor:
    return Predictor.load(tiny_checkpoint, threads=1)


def behind_index(predictor: Predictor, access: Access) -> FastAPI:
    """Two models and the index above them, as Serve puts them together, in one process."""
    names = ("temper", "mood")
    models = {name: ModelRoutes(predictor, Served(name, 3), Limits(), access) for name in names}
    apps = {name: routes.app() for name, routes in models.items()}
    lock = asyncio.Lock()
    running = ExitStack()

    async def ask_model(name: str, what: str) -> Any:
        return {"describe": models[name].describe, "metrics": models[name].metrics_text, "openapi": apps[name].openapi}[
            what
        ]()

    async def handed_on(name: str, request: relay.Relayed) -> relay.Reply:
        async with lock:
            if not models[name].is_ready:
                models[name]._queue.start()
                running.callback(models[name]._queue.close)
        return await relay.ask(apps[name], request)

    app = IndexRoutes(names, ask_model, Limits(), access, relay=handed_on).app()
    app.state.running = running
    return app


@pytest.fixture(scope="module", params=["one model", "two models"])
def address(request: pytest.FixtureRequest, predictor: Predictor) -> Iterator[str]:
    access = Access(token_hash=digest(KEY), hosts=allowed_hosts("127.0.0.1"))
    if request.param == "one model":
        app = ModelRoutes(predictor, Served("mood", 3), Limits(), access).app()
    else:
        app = behind_index(predictor, access)
    with listening(app) as address:
        yield address
    if request.param == "two models":
        app.state.running.close()


@pytest.fixture
def triton(address: str) -> Iterator[Any]:
    http = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed (heliostat[dev])")
    with http.InferenceServerClient(address) as client:
        yield client


def bearer() -> dict[str, str]:
    """Headers of its own for each call: tritonclient writes into those that it is given."""
    return {"Authorization": f"Bearer {KEY}"}


def texts_of(texts: list[str], *, binary: bool, shape: Callable[[int], list[int]]) -> Any:
    import tritonclient.http as http

    tensor = http.InferInput("text", shape(len(texts)), "BYTES")
    tensor.set_data_from_numpy(np.array(texts, dtype=object).reshape(shape(len(texts))), binary_data=binary)
    return tensor


def test_tritons_client_finds_its_way(triton: Any, address: str) -> None:
    from tritonclient.utils import InferenceServerException

    assert triton.is_server_live()  # without a key, as probes ask
    assert triton.get_server_metadata(headers=bearer())["extensions"] == ["binary_tensor_data"]
    assert triton.is_model_ready("mood", headers=bearer())
    assert triton.is_model_ready("mood", "3", headers=bearer())
    assert not triton.is_model_ready("mood", "4", headers=bearer())
    assert not triton.is_model_ready("nobody", headers=bearer())
    about = triton.get_model_metadata("mood", headers=bearer())
    assert (about["name"], about["versions"]) == ("mood", ["3"])
    assert about["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    with pytest.raises(InferenceServerException, match=r"token|key"):
        triton.get_model_metadata("mood")


def test_tritons_client_gets_the_predictors_answers(triton: Any, predictor: Predictor) -> None:
    import tritonclient.http as http

    expected = predictor.predict([{"text": text} for text in TEXTS])
    for binary in (True, False):  # binary is what it sends by default
        for shape in (lambda n: [n], lambda n: [n, 1]):
            result = triton.infer(
                "mood", [texts_of(TEXTS, binary=binary, shape=shape)], request_id="r 1", headers=bearer()
            )
            assert result.get_response()["id"] == "r 1"
            assert [label.decode() for label in result.as_numpy("label")] == [row["label"] for row in expected]
            names = result.get_output("probabilities")["parameters"]["names"]
            own = [[row["probabilities"][name] for name in names] for row in expected]
            np.testing.assert_allclose(result.as_numpy("probabilities"), own, atol=1e-6)
    only = [http.InferRequestedOutput("label", binary_data=False)]
    sent = [texts_of(TEXTS[:1], binary=True, shape=lambda n: [n])]
    result = triton.infer("mood", sent, model_version="3", outputs=only, headers=bearer())
    assert result.as_numpy("label").tolist() == [expected[0]["label"]]
    assert result.as_numpy("probabilities") is None


def test_tritons_client_is_told_what_is_wrong(triton: Any) -> None:
    from tritonclient.utils import InferenceServerException

    sent = [texts_of(["fine", " "], binary=True, shape=lambda n: [n])]
    with pytest.raises(InferenceServerException) as refused:
        triton.infer("mood", sent, headers=bearer())
    assert (refused.value.status(), refused.value.message()) == ("422", "The text holds nothing but white space.")
    with pytest.raises(InferenceServerException, match="There is no such model"):
        triton.infer("nobody", sent, headers=bearer())


def test_a_refusal_names_the_element(address: str) -> None:
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": ["fine", ""]}]}
    reply = httpx.post(f"http://{address}/v2/models/mood/infer", json=body, headers={**bearer(), "X-Request-ID": "r1"})
    told = reply.json()
    assert (reply.status_code, told["code"], told["field"], told["request_id"]) == (422, "empty_text", "text[1]", "r1")
    assert reply.headers["x-request-id"] == "r1"
    assert httpx.post(f"http://{address}/v2/models/mood/infer", json=body).status_code == 401


def test_a_foreign_page_cannot_ask(address: str) -> None:
    body = b'{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["fine"]}]}'
    url = f"http://{address}/v2/models/mood/infer"
    assert httpx.post(url, content=body, headers=bearer()).status_code == 200  # as tritonclient: no content type at all
    for headers in ({"Origin": "http://a.b"}, {"Content-Type": "text/plain"}):
        assert httpx.post(url, content=body, headers={**bearer(), **headers}).status_code == 415


@pytest.fixture
def openai(address: str) -> Iterator[Any]:
    package = pytest.importorskip("openai", reason="openai is not installed (heliostat[dev])")
    with package.OpenAI(base_url=f"http://{address}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_openais_client_lists_the_models(openai: Any, address: str) -> None:
    names = [model.id for model in openai.models.list()]
    assert "mood" in names
    assert openai.models.retrieve("mood").owned_by == "heliostat"
    with Client(f"http://{address}", KEY) as own:
        assert own.models() == names
        assert own.model("mood")["embeds"] is True


def test_openais_client_embeds(openai: Any, predictor: Predictor) -> None:
    told = openai.embeddings.create(model="mood", input=TEXTS)  # it asks for base64 by itself
    expected = predictor.embed([{"text": text} for text in TEXTS])
    np.testing.assert_allclose([each.embedding for each in told.data], [row["vector"] for row in expected], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm([each.embedding for each in told.data], axis=1), 1.0, atol=1e-6)
    assert told.usage.total_tokens == sum(row["tokens"] for row in expected) > len(TEXTS)
    one = openai.embeddings.create(model="mood", input=TEXTS[0], encoding_format="float")
    np.testing.assert_allclose(one.data[0].embedding, expected[0]["vector"], atol=1e-6)
    assert one.model == "mood"


def test_openais_client_is_told_what_is_wrong(openai: Any) -> None:
    import openai as package

    with pytest.raises(package.UnprocessableEntityError) as empty:
        openai.embeddings.create(model="mood", input=["fine", " "])
    assert (empty.value.code, empty.value.param, empty.value.type) == (
        "empty_text",
        "input[1]",
        "invalid_request_error",
    )
    with pytest.raises(package.NotFoundError, match="There is no such model"):
        openai.embeddings.create(model="gpt", input="fine")
    with pytest.raises(package.UnprocessableEntityError, match="dimensions"):
        openai.embeddings.create(model="mood", input="fine", dimensions=7)
    with pytest.raises(package.AuthenticationError):
        openai.with_options(api_key="another").models.list()


def test_our_own_clients_embed(address: str, predictor: Predictor) -> None:
    expected = [row["vector"] for row in predictor.embed([{"text": text} for text in TEXTS])]
    with Client(f"http://{address}", KEY) as client:
        np.testing.assert_allclose(client.embed("mood", TEXTS), expected, atol=1e-6)
        with pytest.raises(RefusedError) as refused:
            client.embed("mood", ["fine", ""])
    assert refused.value.field == "input[1]"

    async def ask() -> list[list[float]]:
        async with AsyncClient(f"http://{address}", KEY) as client:
            return await client.embed("mood", TEXTS)

    np.testing.assert_allclose(asyncio.run(ask()), expected, atol=1e-6)


def test_whoever_names_a_version_gets_that_one(predictor: Predictor) -> None:
    routes = ModelRoutes(predictor, Served("mood", 3), Limits(), Access())

    async def canary(app: str, rows: Sequence[Row], seconds: float) -> Answered:
        return Answered(await routes.rows_answered(rows, time.monotonic() + seconds), Served("mood", 4))

    routes.switch.connect(canary, lambda what, tally: None)
    routes.switch.turn(Routes(canary=CanaryRoute(app="_canary.mood", version=4, percent=100.0)))
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["fine"]}]}
    with TestClient(routes.app()) as client:
        replies = [client.post(f"/v2/models/mood{path}/infer", json=body) for path in ("", "/versions/3")]
    assert [reply.json()["model_version"] for reply in replies] == ["4", "3"]
    assert [reply.headers["x-model"] for reply in replies] == ["mood:4", "mood:3"]


def test_vectors_and_predictions_wait_in_one_queue(predictor: Predictor) -> None:
    """Asked at once, each gets its own: a batch may hold both."""
    app = ModelRoutes(predictor, Served("mood", 3), Limits(), Access()).app()
    transport = httpx.ASGITransport(app=app)

    async def ask() -> tuple[list[Any], list[Any]]:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as http,
        ):
            embedded = [http.post("/v1/embeddings", json={"model": "mood", "input": text}) for text in TEXTS * 4]
            asked = [http.post("/v1/models/mood:predict", json={"instances": [{"text": t}]}) for t in TEXTS * 4]
            mixed = [each for pair in zip(embedded, asked, strict=True) for each in pair]
            replies = [reply.json() for reply in await asyncio.gather(*mixed)]
            return replies[::2], replies[1::2]

    vectors, predictions = asyncio.run(ask())
    for place, text in enumerate(TEXTS * 4):
        own = predictor.embed([{"text": text}])[0]["vector"]
        np.testing.assert_allclose(vectors[place]["data"][0]["embedding"], own, atol=1e-5)
        assert predictions[place]["predictions"][0]["label"] == predictor.predict([{"text": text}])[0]["label"]


def test_a_model_without_vectors_of_texts_has_no_such_route(tiny_writer: Path) -> None:
    class Plain:
        head = Predictor.load(tiny_writer, threads=1).head

        def predict(self, examples: Any, *, max_tokens: int = 8192) -> Any:
            raise AssertionError("nobody asks")

    with TestClient(ModelRoutes(Plain(), Served("writer", 1), Limits(), Access()).app()) as client:
        assert client.get("/v1/models/writer").json()["embeds"] is False
        reply = client.post("/v1/embeddings", json={"model": "writer", "input": "a"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "unknown_route")
        assert "/v1/embeddings" not in client.get("/openapi.json").json()["paths"]
