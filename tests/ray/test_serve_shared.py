"""Models that share an encoder, in one process behind real HTTP: asked, updated, taken back, and refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from heliostat.errors import ServeError
from heliostat.models import ModelStore
from heliostat.predict import Predictor
from heliostat.serve.client import Client
from heliostat.serve.deploy_file import DeploySettings, check_deployment
from heliostat.serve.deployment import Deployment, deploy

pytest.importorskip("peft", reason="peft is an extra: pip install 'heliostat[peft]'")

LINES = [{"text": f"the bus number {n} is {'late' if n % 2 else 'lovely'}" + " again" * (n % 7)} for n in range(24)]
MEMBERS = ("tone", "topic", "mood")
LORA = {"type": "lora", "rank": 4, "targets": ["query", "value", "dense"]}


def settings(*others: str, **more: Any) -> DeploySettings:
    """Three models that share, one of them without an adapter, and one by itself."""
    topic = {"model": "topic@champion", "limits": {"max_instances": 30}, **more}
    models = ["tone@champion", topic, "mood:1", *({"model": name, "precision": "fp32"} for name in others)]
    return check_deployment({"models": models, "port": 0, "shared": {"models": list(MEMBERS), "precision": "fp32"}})


@pytest.fixture(scope="module")
def made(
    on_tiny: Callable[..., Path],
    tiny_checkpoint: Path,
    other_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Path]]:
    """Checkpoints by name and version in a store; topic:3 stands on another base."""
    topics, elsewhere = ("home", "sea", "town"), str(other_checkpoint / "encoder")
    found = {
        "tone:1": on_tiny("tone", ("kind", "rude"), 1, adapter=LORA),
        "topic:1": on_tiny("topic", topics, 2, adapter={**LORA, "rank": 2}),
        "topic:2": on_tiny("topic", topics, 3, adapter=LORA),
        "topic:3": on_tiny("topic", topics, 4, adapter=LORA, pretrained=elsewhere),
        "mood:1": tiny_checkpoint,
        "odd:1": other_checkpoint,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELIOSTAT_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("OMP_NUM_THREADS", "1")
        for name, folder in found.items():
            ModelStore().add(name.partition(":")[0], folder, run_id="r", data_key="k", scores={})
        for name in ("tone", "topic"):
            ModelStore().promote(name, 1, "champion")
        yield found


@pytest.fixture(scope="module")
def deployment(made: dict[str, Path]) -> Iterator[Deployment]:
    with deploy(settings("odd")) as deployment:
        yield deployment


def replicas() -> dict[str, set[int]]:
    """Process ids of the replicas, by application."""
    found: dict[str, set[int]] = {}
    for child in psutil.Process().children(recursive=True):
        title = "" if child.status() == psutil.STATUS_ZOMBIE else " ".join(child.cmdline())
        if "ServeReplica:" in title:
            found.setdefault(title.partition("ServeReplica:")[2].partition(":")[0], set()).add(child.pid)
    return found


def check_answers(url: str, name: str, checkpoint: Path) -> None:
    expected = Predictor.load(checkpoint, threads=1).predict(LINES)
    with Client(url, timeout=60) as client:
        answer = client.ask(name, LINES)
    for served, own in zip(answer.predictions, expected, strict=True):
        assert served["label"] == own["label"]
        assert served["probabilities"] == pytest.approx(own["probabilities"], abs=1e-5)


def test_a_mixed_stream_is_answered_by_one_process(deployment: Deployment, made: dict[str, Path]) -> None:
    assert {app: len(pids) for app, pids in replicas().items()} == {"_shared": 1, "odd": 1}
    own = {name: Predictor.load(made[f"{name}:1"], threads=1).predict(LINES) for name in (*MEMBERS, "odd")}
    asked = [(name, place) for place in range(len(LINES)) for name in own]
    with Client(deployment.url, timeout=60) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda each: client.ask(each[0], [LINES[each[1]]]), asked))
        assert client.models() == [*MEMBERS, "odd"]
    for (name, place), answer in zip(asked, answers, strict=True):
        assert (answer.name, answer.version) == (name, 1)
        assert answer.predictions[0]["probabilities"] == pytest.approx(own[name][place]["probabilities"], abs=1e-5)
    assert len({row["probabilities"]["kind"] for row in own["tone"]}) > 12


def test_each_keeps_its_routes_limits_and_metrics(deployment: Deployment, made: dict[str, Path]) -> None:
    with httpx.Client(base_url=deployment.url, trust_env=False, timeout=60) as http, Client(deployment.url) as client:
        tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a lovely sea"]}
        for name in (*MEMBERS, "odd"):
            assert http.get(f"/v1/models/{name}").json()["ready"] is True
            assert http.post(f"/v2/models/{name}/infer", json={"inputs": [tensor]}).json()["model_name"] == name
            own = Predictor.load(made[f"{name}:1"], threads=1).embed([{"text": "a lovely sea"}])
            assert client.embed(name, ["a lovely sea"])[0] == pytest.approx(own[0]["vector"], abs=1e-5)
        many = {"instances": LINES[:1] * 31}
        assert http.post("/v1/models/topic:predict", json=many).status_code == 413
        assert http.post("/v1/models/tone:predict", json=many).status_code == 200
        assert http.post("/v1/models/tone:stream", json={"instances": LINES[:1]}).status_code == 404
        assert http.post("/v1/models/nobody:predict", json=many).status_code == 404
        assert {f"/v1/models/{name}:predict" for name in (*MEMBERS, "odd")} <= set(
            http.get("/openapi.json").json()["paths"]
        )
        assert http.get("/readyz").json() == {"status": "ready"}
        counted = [
            line for line in http.get("/metrics").text.splitlines() if line.startswith("heliostat_requests_total")
        ]
        for name in (*MEMBERS, "odd"):
            assert any(f'model="{name}"' in line and 'route="infer"' in line for line in counted)
    told = {row["name"]: row for row in deployment.status()["models"]}
    assert {name: row["shared"] for name, row in told.items()} == {**dict.fromkeys(MEMBERS, True), "odd": False}
    assert {row["state"] for row in told.values()} == {"running"}
    assert deployment.describe("topic")["name"] == "topic"


def test_one_of_them_is_updated_and_taken_back(deployment: Deployment, made: dict[str, Path]) -> None:
    before = replicas()
    ModelStore().promote("topic", 2, "champion")
    assert deployment.update(settings("odd")) == ["topic: version 1 -> 2"]
    check_answers(deployment.url, "topic", made["topic:2"])
    check_answers(deployment.url, "tone", made["tone:1"])
    assert replicas()["odd"] == before["odd"], "a model of its own process was started anew"
    assert deployment.rollback("topic") == ["topic: version 2 -> 1"]
    check_answers(deployment.url, "topic", made["topic:1"])


def test_another_base_and_a_move_are_refused(deployment: Deployment, made: dict[str, Path]) -> None:
    before = replicas()
    ModelStore().promote("topic", 3, "champion")
    with pytest.raises(ServeError, match=r"topic \(version 3\) stands on another base than tone \(version 1\)"):
        deployment.update(settings("odd"))
    ModelStore().promote("topic", 1, "champion")
    with pytest.raises(ServeError, match="shared cannot begin or end while it runs"):
        deployment.update(settings("odd").model_copy(update={"shared": None}))
    assert replicas() == before
    check_answers(deployment.url, "topic", made["topic:1"])


@pytest.mark.sweep
def test_canaries_and_other_models_come_and_go_beside(deployment: Deployment, made: dict[str, Path]) -> None:
    before = replicas()
    deployment.update(settings(canary={"version": 3, "percent": 100}))
    with Client(deployment.url, timeout=60) as client:
        assert client.models() == list(MEMBERS)
        assert client.ask("topic", LINES[:2]).version == 3, "a canary has a base of its own"
    assert replicas()["_shared"] == before["_shared"], "a canary started the shared process anew"
    deployment.rollback("topic")
    check_answers(deployment.url, "topic", made["topic:1"])
