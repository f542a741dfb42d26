"""Eight clients ask two replicas all the while: processes die, versions come and go, and no request is lost.

Victims are taken from the processes that this deployment's own Ray started, and from no others.
"""

from __future__ import annotations

import json
import os
import shutil
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
from heliostat.models import ModelStore
from heliostat.predict import Predictor
from heliostat.serve.deploy_file import DeploySettings, check_deployment
from heliostat.serve.deployment import Deployment, deploy
from heliostat.testing import leftovers

NUM_CLIENTS = 8
LINES = [{"text": f"the bus number {n} is {'late' if n % 2 else 'lovely'}" + " again" * (n % 7)} for n in range(24)]


class Stage:
    """What the tests of a deployment ask for again and again."""

    num_clients = NUM_CLIENTS

    @staticmethod
    def settings(**model: Any) -> DeploySettings:
        fixed = {"model": "mood:1", "replicas": 2, "threads": 1, "precision": "fp32"}
        return check_deployment({"port": 0, "models": [{**fixed, **model}]})

    @staticmethod
    def wait_until(is_so: Callable[[], bool], what: str, timeout_s: float = 90.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_so():
            assert time.monotonic() < deadline, f"never: {what}"
            time.sleep(0.05)

    @staticmethod
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

    @classmethod
    def replicas(cls) -> set[int]:
        return {process.pid for process in cls.named("ServeReplica:mood:Replica")}

    @classmethod
    def more(cls, found: Load, count: int = 60, version: int | None = None) -> None:
        """Wait for so many answers more."""

        def have() -> int:
            return found.answers[version] if version else sum(found.answers.values())

        wanted = have() + count
        cls.wait_until(lambda: have() >= wanted, "more answers")

    @staticmethod
    def free_cpus() -> float:
        """CPUs that nobody has taken from Ray."""
        import ray

        return float(ray.available_resources().get("CPU", 0.0))


@pytest.fixture(scope="session")
def stage() -> type[Stage]:
    return Stage


@pytest.fixture(autouse=True)
def _cpus_come_back(deployment: Deployment) -> Iterator[None]:
    """Each test leaves as many CPUs to others as it found."""
    before = Stage.free_cpus()
    yield
    Stage.wait_until(lambda: Stage.free_cpus() == before, f"{before:g} free CPUs again")


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
    others = leftovers.raylets()  # a cluster that other tests of this process keep
    with deploy(Stage.settings()) as deployment:
        yield deployment
    assert leftovers.raylets() == others


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
                Stage.wait_until(lambda: sum(found.answers.values()) >= 20, "the first answers")
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
