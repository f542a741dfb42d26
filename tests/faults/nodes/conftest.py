"""A cluster of two nodes, a run on it, and what that run comes to where nothing happens.

The cluster is a process tree of this test's own (cluster_nodes.py); nothing outside of it is touched.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

Ends = Callable[[subprocess.Popen[bytes]], None]
HEAD = "127.0.0.2"
RUN = [
    "sentiment/tiny",
    "data.limit=400",
    "train.log_every=1",
    "train.checkpoint_every=3",
    "train.tokens_per_batch=1024",
    "train.precision=fp32",
    "train.check_every=1",  # after each update: the workers saw the examples of the plan, each once
    "head.dropout=0.0",
    "encoder.dropout=0.0",
    "scaling.threads_per_worker=1",  # whoever shares a machine: sums in one order
]
SHORT, TWO = "train.epochs=20", "scaling.num_workers=2"


class Nodes:
    """A cluster with a head and other nodes, of one CPU each."""

    def __init__(self, env: dict[str, str]) -> None:
        with socket.socket() as first, socket.socket() as second:
            for each in (first, second):
                each.bind((HEAD, 0))
            ports = [str(each.getsockname()[1]) for each in (first, second)]
        self.env = env
        self.used = 2
        command = [sys.executable, str(Path(__file__).with_name("cluster_nodes.py")), *ports]
        self.process = subprocess.Popen(
            command, env={**os.environ, **env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.address = self._answer()["address"]

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(next(line for line in self.process.stdout if line.startswith("{")))

    def tell(self, *words: object) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self._answer()["done"]

    def add(self) -> str:
        """The address of a node that joins, which nobody had before."""
        self.used += 1
        address = f"127.0.0.{self.used}"
        self.tell("add", address)
        return address

    def power_cut(self) -> None:
        """Every process of every node is gone at once."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        for process in [psutil.Process(self.process.pid), *family]:
            process.kill()
        self.process.wait()
        psutil.wait_procs(family, timeout=30)

    def end(self) -> None:
        if self.process.poll() is None:
            family = psutil.Process(self.process.pid).children(recursive=True)
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
            for process in psutil.wait_procs(family, timeout=10)[1]:
                process.kill()


@pytest.fixture(scope="package")
def own_ray(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """How the nodes of a cluster start: with a token, and with a head that stores what it knows."""
    folder = tmp_path_factory.mktemp("own_ray")
    token = folder / "token"
    token.write_text("a-token-of-the-tests-0123456789abcdef", encoding="utf-8")
    token.chmod(0o600)
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_gcs_storage": "rocksdb"}


@pytest.fixture
def start_nodes(own_ray: dict[str, str], tmp_path: Path) -> Iterator[Callable[[], Nodes]]:
    """Starts a cluster of two nodes; in the end every CPU of it is free and no actor is left."""
    started: list[Nodes] = []

    def start() -> Nodes:
        storage = tmp_path / f"stored-{len(started)}"
        storage.mkdir()
        started.append(Nodes(own_ray | {"RAY_gcs_storage_path": str(storage)}))
        started[-1].add()
        return started[-1]

    try:
        yield start
        deadline = time.monotonic() + 60
        state: dict[str, Any] = {}
        while state.get("free", -1) != state.get("cpus") or state["actors"]:
            state = started[-1].tell("state")
            assert time.monotonic() < deadline, f"not given back: {state}"
            time.sleep(0.2)
    finally:
        for each in started:
            each.end()


@pytest.fixture
def nodes(start_nodes: Callable[[], Nodes]) -> Nodes:
    return start_nodes()


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="package")
def unbroken(runs_at: Callable[[Path], Any], home: Path) -> dict[str, str]:
    """The weights of the same run on a Ray of its own where nothing happens."""
    runs = runs_at(home)
    runs.run(*RUN, SHORT, TWO, "--run-id", "unbroken")
    weights: dict[str, str] = runs.weights("unbroken")
    return weights


class Story:
    """Runs whose driver knows a cluster, from their beginning to the comparison with the unbroken one."""

    def __init__(self, runs: Any, ends: Ends, dice: random.Random) -> None:
        self.runs, self.ends, self.dice = runs, ends, dice

    def begun(self, run_id: str, *more: str, epochs: str = SHORT, workers: str = TWO) -> Any:
        """The driver of a run that is some steps on its way."""
        driver = self.runs.start(*RUN, epochs, workers, *more, "--run-id", run_id)
        self.ends(driver)
        self.runs.wait_for_step(driver, run_id, self.dice.randint(5, 60))
        return driver

    def losses(self, run_id: str) -> list[tuple[int, float]]:
        lines = (self.runs.folder(run_id) / "metrics.jsonl").read_text().splitlines()
        return [(row["step"], row["loss"]) for row in map(json.loads, lines) if "loss" in row]

    def same_losses(self, run_id: str) -> None:
        """Each update made, the losses those of the unbroken run as far as another order of sums leaves them so."""
        told, wanted = dict(self.losses(run_id)), dict(self.losses("unbroken"))
        assert told.keys() == wanted.keys()
        early = [step for step in wanted if step <= 100]
        assert [told[step] for step in early] == pytest.approx([wanted[step] for step in early], rel=1e-3)


@pytest.fixture
def story_on(
    runs_at: Callable[..., Any], home: Path, unbroken: dict[str, str], ends: Ends, dice: random.Random
) -> Callable[[Nodes], Story]:
    """The story of runs on a cluster."""

    def on(nodes: Nodes) -> Story:
        return Story(runs_at(home, nodes.env | {"RAY_ADDRESS": nodes.address}), ends, dice)

    return on


@pytest.fixture
def story(story_on: Callable[[Nodes], Story], nodes: Nodes) -> Story:
    return story_on(nodes)
