"""Eight clients ask two replicas all the while: processes die, versions come and go, and no request is lost.

Victims are taken from the processes that this deployment's own Ray started, and from no others.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from heliostat import checkpoint
from heliostat.errors import ServeError
from heliostat.models import ModelStore
from heliostat.predict import Predictor
from heliostat.serve.applications import standing
from heliostat.serve.deploy_file import DeploySettings, check_deployment
from heliostat.serve.deployment import Deployment, deploy

NUM_CLIENTS = 8
LINES = [{"text": f"the bus number {n} is {'late' if n % 2 else 'lovely'}" + " again" * (n % 7)} for n in range(24)]


def settings(**model: Any) -> DeploySettings:
    fixed = {"model": "mood:1", "replicas": 2, "threads": 1, "precision": "fp32"}
    return check_deployment({"port": 0, "models": [{**fixed, **model}]})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, other_checkpoint: Path) -> Iterator[Path]:
    """A store with two versions that answer differently, and a third whose golden answers are not its own."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELIOSTAT_HOME", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        for each in (tiny_checkpoint, other_checkpoint, broken(tiny_checkpoint, folder / "broken")):
            ModelStore().add("mood", each, run_id="r", data_key="k", scores={})
        yield folder


def broken(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    rows = [json.loads(line) for line in (folder / "golden.jsonl").read_text(encoding="utf-8").splitlines()]
    rows[0]["prediction"]["probabilities"] = dict.fromkeys(rows[0]["prediction"]["probabilities"], 0.5)
    (folder / "golden.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    checkpoint.seal(folder, {})
    return folder


@pytest.fixture(scope="module")
def expected(home: Path) -> dict[int, list[dict[str, Any]]]:
    """What each version answers."""
    found = {}
    for version in (1, 2):
        folder = ModelStore().resolve(f"mood:{version}").folder
        found[version] = Predictor.load(folder, threads=1).predict(LINES)
    pairs = zip(found[1], found[2], strict=True)
    assert all(abs(a["probabilities"]["sad"] - b["probabilities"]["sad"]) > 1e-3 for a, b in pairs)
    return found


@pytest.fixture(scope="module")
def deployment(home: Path) -> Iterator[Deployment]:
    with deploy(settings()) as deployment:
        yield deployment
    assert [child for child in psutil.Process().children(recursive=True) if "raylet" in child.name()] == []


class Load:
    """What eight clients met: answers by version, what a plain client saw fail, what was lost in spite of retries."""

    def __init__(self, expected: dict[int, list[dict[str, Any]]]) -> None:
        self.expected = expected
        self.answers: Counter[int] = Counter()
        self.plain: Counter[str] = Counter()
        self.lost: list[str] = []
        self.wrong: list[str] = []
        self.last: dict[int, float] = {}
        self.slowest_s = 0.0

    def __str__(self) -> str:
        answers = ", ".join(f"{count} by version {version}" for version, count in sorted(self.answers.items()))
        plain = ", ".join(f"{count} {code}" for code, count in self.plain.items()) or "0 failed"
        return f"{answers}; plain: {plain}; with retries: {len(self.lost)} lost; slowest {self.slowest_s:.2f} s"

    def client(self, url: str, place: int, stop: threading.Event) -> None:
        turn = place
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            while not stop.is_set():
                rows = [(turn + each) % len(LINES) for each in range(3)]
                turn += 1
                started = time.monotonic()
                self.ask(client, rows)
                self.slowest_s = max(self.slowest_s, time.monotonic() - started)
                stop.wait(0.02)

    def ask(self, client: httpx.Client, rows: list[int]) -> None:
        """Ask until there is an answer, as a client does that retries; the first failure is what a plain one sees."""
        for attempt in range(120):
            try:
                answer = client.post("/v1/models/mood:predict", json={"instances": [LINES[row] for row in rows]})
                failure = "" if answer.is_success else str(answer.status_code)
            except httpx.HTTPError as error:
                failure = type(error).__name__
            if not failure:
                break
            if attempt == 0:
                self.plain[failure] += 1
            time.sleep(0.1 * min(attempt + 1, 5))
        else:
            self.lost.append(failure)
            return
        version = answer.json()["model"]["version"]
        self.answers[version] += 1
        self.last[version] = time.monotonic()
        for row, found in zip(rows, answer.json()["predictions"], strict=True):
            own = self.expected[version][row]
            near = pytest.approx(own["probabilities"], abs=1e-4)
            if found["label"] != own["label"] or found["probabilities"] != near:
                self.wrong.append(f"row {row} is not version {version}'s")


@pytest.fixture
def load(deployment: Deployment, expected: dict[int, list[dict[str, Any]]]) -> Callable[..., Any]:
    @contextmanager
    def load(title: str) -> Iterator[Load]:
        found, stop = Load(expected), threading.Event()
        with ThreadPoolExecutor(NUM_CLIENTS) as pool:
            clients = [pool.submit(found.client, deployment.url, place, stop) for place in range(NUM_CLIENTS)]
            try:
                wait_until(lambda: sum(found.answers.values()) >= 20, "the first answers")
                yield found
            finally:
                stop.set()
            for client in clients:
                client.result()
        print(f"\n{title}: {found}")
        record(title, found)
        assert found.lost == []
        assert found.wrong == [], "an answer holds rows of another version than it names"

    return load


def record(title: str, found: Load) -> None:
    if folder := os.environ.get("HELIOSTAT_ARTIFACTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        with (Path(folder) / "serve_faults.jsonl").open("a", encoding="utf-8") as file:
            file.write(
                json.dumps({"fault": title, "answers": found.answers, "plain": found.plain, "lost": len(found.lost)})
                + "\n"
            )


def wait_until(is_so: Callable[[], bool], what: str, timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def named(word: str) -> list[psutil.Process]:
    """The descendants of this test that Ray titled so."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if word in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def replicas() -> set[int]:
    return {process.pid for process in named("ServeReplica:mood:Replica")}


def more(found: Load, count: int = 60, version: int | None = None) -> None:
    """Wait for so many answers more."""
    have = found.answers[version] if version else sum(found.answers.values())
    wait_until(
        lambda: (found.answers[version] if version else sum(found.answers.values())) >= have + count, "more answers"
    )


def test_a_replica_is_killed(deployment: Deployment, load: Any) -> None:
    before = replicas()
    assert len(before) == 2
    with load("kill -9 of a model replica") as found:
        for _ in range(2):
            alive = replicas()
            os.kill(min(alive), signal.SIGKILL)
            wait_until(lambda alive=alive: len(replicas() - {min(alive)}) == 2, "a replica in its place")
            wait_until(lambda: deployment.status()["models"][0]["replicas"].get("RUNNING") == 2, "two replicas")
            more(found)
    assert found.plain == {}, "a plain client saw it"


def test_the_controller_is_killed(deployment: Deployment, load: Any) -> None:
    kept = replicas()
    with load("kill -9 of the controller") as found:
        (controller,) = named("ServeController")
        os.kill(controller.pid, signal.SIGKILL)
        wait_until(lambda: {each.pid for each in named("ServeController")} - {controller.pid} != set(), "a controller")
        wait_until(lambda: deployment.status()["models"][0]["state"] == "running", "a controller that knows")
        more(found)
    assert found.plain == {}
    assert replicas() == kept, "it keeps the replicas"


def test_a_canary_comes_and_goes(deployment: Deployment, load: Any) -> None:
    kept = replicas()
    with load("a canary of 30 %, and its end") as found:
        deployment.update(settings(canary={"version": 2, "percent": 30}))
        more(found, 100)
        more(found, 20, version=2)
        canary = named("ServeReplica:_canary.mood:Replica")
        os.kill(canary[0].pid, signal.SIGKILL)  # a canary that dies costs nobody an answer
        more(found, 100)
        started = time.monotonic()
        deployment.rollback("mood")
        seconds = time.monotonic() - started
        by_canary = found.answers[2]
        more(found, 50)
        assert found.answers[2] <= by_canary + NUM_CLIENTS
        print(f"\nthe canary ended in {seconds:.2f} s")
    assert found.plain == {}
    assert replicas() == kept, "the version in use answers all the while, from the same processes"


def test_a_shadow_is_compared_and_answers_nobody(deployment: Deployment, load: Any) -> None:
    with load("a shadow") as found:
        deployment.update(settings(shadow={"version": 2}))
        more(found, 100)
        wait_until(lambda: deployment.status()["models"][0]["shadow"].get("records", 0) >= 60, "comparisons")
        report = deployment.status()["models"][0]["shadow"]
        deployment.update(settings())
    assert found.plain == {}
    assert set(found.answers) == {1}
    print(f"\n{report}")
    assert report["difference"]["max"] > 1e-3
    assert 0.0 <= report["agreement"] <= 1.0
    assert report["failed"] == 0


@pytest.mark.parametrize(("replicas", "keeps"), [(1, False), (2, True)], ids=["one replica", "two, and one kept"])
def test_a_rolling_update_and_back(deployment: Deployment, load: Any, replicas: int, keeps: bool) -> None:
    deployment.update(settings(replicas=replicas))
    with load(
        f"a rolling update and back, {replicas} replicas, the version before {'kept' if keeps else 'loaded anew'}"
    ) as found:
        started = time.monotonic()
        wanted = settings(model="mood:2", replicas=replicas).model_copy(update={"keep_previous": keeps})
        assert deployment.update(wanted) == ["mood: version 1 -> 2"]
        there = time.monotonic()
        by_old = found.answers[1]
        more(found, 50)
        assert found.answers[1] <= by_old + NUM_CLIENTS
        if keeps:
            wait_until(lambda: len(named("ServeReplica:_previous.mood:Replica")) == 2, "the version before")
            wait_until(lambda: standing()["_previous.mood"]["state"] == "running", "the version before")
        back = time.monotonic()
        said = deployment.rollback("mood")
        assert said[0] == "mood: version 2 -> 1"
        done = time.monotonic()
        more(found, 50, version=1)
    print(
        f"\nupdate {there - started:.2f} s, back {done - back:.2f} s, last answer of 2 at {found.last[2] - back:.2f} s"
    )
    assert found.plain == {}
    assert set(found.answers) == {1, 2}
    deployment.update(settings())


def test_a_bad_version_takes_no_traffic(deployment: Deployment, load: Any) -> None:
    kept = replicas()
    with load("an update to a version that fails its golden requests") as found:
        with pytest.raises(ServeError, match=r"golden request 0.*All goes on as before") as refused:
            deployment.update(settings(model="mood:3"))
        assert "\n" not in str(refused.value)
        with pytest.raises(ServeError, match="the canary of mood takes no traffic"):
            deployment.update(settings(canary={"version": 3, "percent": 50}))
        more(found)
    assert found.plain == {}
    assert set(found.answers) == {1}
    assert replicas() == kept
    assert deployment.status()["models"][0]["state"] == "running"


def test_too_many_requests_are_told_to_come_back(deployment: Deployment) -> None:
    deployment.update(settings(limits={"max_waiting": 1}))
    body = {"instances": [{"text": "word " * 60}] * 100}
    answers: list[httpx.Response] = []

    def ask(_: int) -> None:
        with httpx.Client(base_url=deployment.url, timeout=60, trust_env=False) as client:
            for _ in range(6):
                answers.append(client.post("/v1/models/mood:predict", json=body))

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(ask, range(24)))
    codes = Counter(answer.status_code for answer in answers)
    slowest = max(answer.elapsed.total_seconds() for answer in answers if answer.is_success)
    print(f"\noverload: {dict(codes)}, slowest accepted {slowest:.2f} s")
    assert set(codes) == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["code"] in ("queue_full", "unavailable")
    deployment.update(settings())


def test_the_proxy_is_killed(deployment: Deployment, load: Any) -> None:
    with load("kill -9 of the proxy") as found:
        (proxy,) = named("ProxyActor")
        os.kill(proxy.pid, signal.SIGKILL)
        started = time.monotonic()
        wait_until(lambda: {each.pid for each in named("ProxyActor")} - {proxy.pid} != set(), "a proxy")
        more(found)
        print(f"\nthe proxy answered again after {time.monotonic() - started:.1f} s")
    assert set(found.plain) <= {"ConnectError", "ReadError", "RemoteProtocolError", "ConnectTimeout"}
