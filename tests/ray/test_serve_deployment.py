"""Real deployments on Ray Serve: the same table of bad requests over HTTP, several models, golden requests, the end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from heliostat.errors import ServeError
from heliostat.models import ModelStore
from heliostat.predict import Predictor
from heliostat.serve.client import Client
from heliostat.serve.deployment import Deployment, serve
from heliostat.testing import leftovers
from heliostat.testing.bad_requests import CHUNK, MARKER, BadRequest, bad_requests

LINES = [{"text": f"the bus number {n} is {'late' if n % 2 else 'lovely'}" + " again" * (n % 7)} for n in range(40)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[Path]:
    """A home with the tiny model under two names."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELIOSTAT_HOME", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        for name in ("mood", "temper"):
            version = ModelStore().add(name, tiny_checkpoint, run_id="r", data_key="k", scores={})
            ModelStore().promote(name, version.version, "champion")
        yield folder


@pytest.fixture(
    scope="module",
    params=[pytest.param(("mood@champion",), marks=pytest.mark.sweep), ("mood:1", "temper")],
    ids=["one model", "two models"],
)
def deployment(request: pytest.FixtureRequest, home: Path) -> Iterator[Deployment]:
    others = leftovers.raylets()  # a cluster that other tests of this process keep
    with serve(request.param, port=0, precision="fp32") as deployment:
        yield deployment
    assert leftovers.raylets() == others


def send_bad(url: str, case: BadRequest) -> tuple[httpx.Response, int]:
    read = 0

    def body() -> Iterator[bytes]:
        nonlocal read
        for chunk in case.chunks():
            read += 1
            yield chunk

    content = body() if case.num_chunks else case.body
    path = case.path or "/v1/models/mood:predict"
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        return client.request(case.method, path, content=content, headers=case.headers), read


def test_every_bad_request_is_refused_in_one_shape(deployment: Deployment) -> None:
    table = []
    for case in bad_requests("mood"):
        response, read = send_bad(deployment.url, case)
        error = response.json()["error"]
        table.append({"case": case.name, "status": response.status_code, "code": error["code"]})
        print(f"{case.name:32} {response.status_code}  {error['code']}")
        assert 400 <= response.status_code < 500, case.name
        assert (response.status_code, error["code"]) == (case.status, case.code), case.name
        assert MARKER not in response.text
        assert len(response.content) < 600
        assert error["request_id"] == response.headers["x-request-id"]
        assert read * CHUNK < 100 << 20, "a body over the limit was taken to its end"
    if folder := os.environ.get("HELIOSTAT_ARTIFACTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        name = f"bad_requests_serve_{len(deployment.models)}.json"
        (Path(folder) / name).write_text(json.dumps(table, indent=1), encoding="utf-8")
    with Client(deployment.url, timeout=60) as client:  # and after all of that it still answers
        assert len(client.predict("mood", LINES[:1])) == 1


def test_answers_are_the_predictors_own_for_every_model(deployment: Deployment, tiny_checkpoint: Path) -> None:
    expected = Predictor.load(tiny_checkpoint, threads=1).predict(LINES)
    with Client(deployment.url, timeout=60) as client, ThreadPoolExecutor(8) as pool:
        assert client.models() == [served.name for served in deployment.models]
        for name, version in deployment.models:
            one_by_one = list(pool.map(lambda line, name=name: client.ask(name, [line]), LINES))
            together = client.ask(name, LINES)
            assert {(answer.name, answer.version) for answer in (*one_by_one, together)} == {(name, version)}
            for alone, amid, own in zip(one_by_one, together.predictions, expected, strict=True):
                for served in (alone.predictions[0], amid):
                    assert served["label"] == own["label"]
                    assert served["probabilities"] == pytest.approx(own["probabilities"], abs=1e-5)


def test_describes_itself(deployment: Deployment) -> None:
    with httpx.Client(base_url=deployment.url, trust_env=False, timeout=60) as http:
        names = [served.name for served in deployment.models]
        paths = http.get("/openapi.json").json()["paths"]
        assert {f"/v1/models/{name}:predict" for name in names} <= set(paths)
        page = http.get("/docs").text
        metrics = http.get("/metrics").text
        for name in names:
            described = http.get(f"/v1/models/{name}").json()
            assert (described["name"], described["ready"], described["notice"]) == (name, True, "Made for tests.")
            assert name in page
            assert f'model="{name}"' in metrics
        assert metrics.count("# TYPE heliostat_request_seconds histogram") == 1
        assert http.get("/healthz").json() == {"status": "ok"}
        assert len(http.get("/readyz").headers.get_list("x-request-id")) == 1


def test_other_protocols_reach_every_model(deployment: Deployment, tiny_checkpoint: Path) -> None:
    own = Predictor.load(tiny_checkpoint, threads=1)
    expected, vectors = own.predict(LINES[:3]), own.embed(LINES[:3])
    tensor = {"name": "text", "shape": [3], "datatype": "BYTES", "data": [line["text"] for line in LINES[:3]]}
    with httpx.Client(base_url=deployment.url, trust_env=False, timeout=60) as http, Client(deployment.url) as client:
        assert http.get("/v2/health/ready").status_code == http.get("/v2").status_code == 200
        for name, version in deployment.models:
            for path in (f"/v2/models/{name}/infer", f"/v2/models/{name}/versions/{version}/infer"):
                reply = http.post(path, json={"id": "7", "inputs": [tensor]}, headers={"X-Request-ID": "r-7"})
                assert reply.headers.get_list("x-request-id") == ["r-7"]
                body = reply.json()
                assert (body["id"], body["model_name"], body["model_version"]) == ("7", name, str(version))
                assert body["outputs"][0]["data"] == [row["label"] for row in expected]
            assert http.get(f"/v2/models/{name}/ready").json()["ready"] is True
            assert http.post(f"/v2/models/{name}/versions/99/infer", json={}).status_code == 404
            found = client.embed(name, [line["text"] for line in LINES[:3]])
            for vector, row in zip(found, vectors, strict=True):
                assert vector == pytest.approx(row["vector"], abs=1e-5)
        refused = http.post(f"/v2/models/{deployment.models[0].name}/infer", content=b"{")
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_json")
        metrics = http.get("/metrics").text
        for name, _ in deployment.models:
            assert any(f'model="{name}"' in line and 'route="infer"' in line for line in metrics.splitlines())


def test_a_line_a_request_is_written_by_the_replicas(deployment: Deployment, home: Path) -> None:
    with Client(deployment.url, timeout=60) as client:
        client.ask("mood", [{"text": MARKER}], key="order-7")
    texts = [path.read_text(encoding="utf-8") for path in (home / "logs" / "requests").glob("mood-*.jsonl")]
    assert any('"id": "order-7"' in text for text in texts)
    assert not any(MARKER in text for text in texts)


def test_a_second_deployment_needs_a_port_and_a_ray_of_its_own(deployment: Deployment) -> None:
    port = int(deployment.url.rpartition(":")[2])
    with pytest.raises(ServeError, match="--port"):
        serve(["mood"], port=port)
    with pytest.raises(ServeError, match="serves already"):
        serve(["mood"], port=0)
