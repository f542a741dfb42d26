"""A run that is killed goes on to the very weights of the run that was not.

Victims are taken only among the descendants of the driver that the test itself started.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

Ends = Callable[[subprocess.Popen[bytes]], None]
RUN = [
    "sentiment/tiny",
    "data.limit=400",
    "train.epochs=12",
    "train.log_every=1",
    "train.checkpoint_every=3",
    "train.tokens_per_batch=1024",
    "train.ema=0.9",
    "scaling.num_workers=2",
]


def _alive(processes: list[psutil.Process], timeout_s: float = 30) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    return alive


@pytest.fixture(scope="module")
def runs(runs_at: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return runs_at(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def unbroken(runs: Any) -> dict[str, str]:
    runs.run(*RUN, "--run-id", "unbroken")
    weights: dict[str, str] = runs.weights("unbroken")
    return weights


@pytest.fixture(scope="module")
def num_steps(runs: Any, unbroken: dict[str, str]) -> int:
    return int(json.loads((runs.folder("unbroken") / "outcome.json").read_text())["step"])


@pytest.fixture(scope="module")
def orphans() -> Iterator[list[psutil.Process]]:
    """What a kill -9 of a driver left: Ray's own agents find out by themselves, in a minute or two."""
    left: list[psutil.Process] = []
    yield left
    assert _alive(left, timeout_s=240) == []


def _workers_not_among(family: list[psutil.Process], driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The workers that took over, as soon as they are there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        new = [each for each in psutil.Process(driver.pid).children(recursive=True) if each not in family]
        with suppress(psutil.NoSuchProcess):
            found = [each for each in new if "TrainWorker" in " ".join(each.cmdline())]
            if len(found) >= 2:
                return found
        time.sleep(0.02)
    raise AssertionError("no workers took over")


@pytest.mark.fault(
    "one of two workers is killed (kill -9)",
    seen="`warning…the workers started again from the last checkpoint.`",
    lost="steps since the last checkpoint are computed again; of the result nothing",
    proof="weights of the unbroken run, to the bit",
)
def test_killed_worker(
    runs: Any,
    unbroken: dict[str, str],
    num_steps: int,
    dice: random.Random,
    ends: Ends,
    is_seen: Callable[[str], None],
) -> None:
    driver = runs.start(*RUN, "--run-id", "worker-killed")
    ends(driver)
    runs.wait_for_step(driver, "worker-killed", dice.randint(4, num_steps // 2))
    family = psutil.Process(driver.pid).children(recursive=True)
    workers = [process for process in family if "TrainWorker" in " ".join(process.cmdline())]
    assert len(workers) >= 2, [process.cmdline() for process in family]
    dice.choice(workers).send_signal(signal.SIGKILL)
    fresh = _workers_not_among(family, driver)
    assert {worker.ppid() for worker in fresh} <= {process.pid for process in family}, "they import what was there"
    is_seen(runs.finish(driver))
    assert runs.weights("worker-killed") == unbroken
    assert _alive(family) == []


@pytest.mark.fault(
    "the command itself is killed (kill -9)",
    seen="nothing: the command is gone. heliostat train --resume ID goes on",
    lost="steps since the last checkpoint are computed again; of the result nothing",
    proof="weights of the unbroken run, to the bit; Ray ends by itself in a minute or two",
)
@pytest.mark.sweep
def test_killed_driver_and_resume(
    runs: Any,
    unbroken: dict[str, str],
    num_steps: int,
    dice: random.Random,
    ends: Ends,
    orphans: list[psutil.Process],
) -> None:
    driver = runs.start(*RUN, "--run-id", "driver-killed")
    ends(driver)
    runs.wait_for_step(driver, "driver-killed", dice.randint(4, num_steps // 2))
    orphans += psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait()
    runs.run("--resume", "driver-killed")
    assert runs.weights("driver-killed") == unbroken


@pytest.mark.fault(
    "Ctrl-C or SIGTERM, as a scheduler sends it",
    seen="`Continue with: heliostat train --resume …`; exit code 130 or 143",
    lost="nothing: a checkpoint is written first",
    proof="weights of the unbroken run, to the bit",
)
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.sweep
def test_stopped_run_keeps_a_checkpoint_and_goes_on(
    runs: Any,
    unbroken: dict[str, str],
    num_steps: int,
    number: signal.Signals,
    exit_code: int,
    dice: random.Random,
    ends: Ends,
    is_seen: Callable[[str], None],
) -> None:
    run_id = f"stopped-{exit_code}"
    driver = runs.start(*RUN, "--run-id", run_id)
    ends(driver)
    runs.wait_for_step(driver, run_id, dice.randint(2, num_steps // 2))
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(number)
    is_seen(runs.finish(driver, exit_code))
    assert _alive(family) == []
    assert runs.whole(run_id)
    runs.run("--resume", run_id)
    assert runs.weights(run_id) == unbroken


def test_one_run_is_not_trained_twice_at_once(runs: Any, unbroken: dict[str, str], ends: Ends) -> None:
    driver = runs.start(*RUN, "--run-id", "locked")
    ends(driver)
    runs.wait_for_step(driver, "locked", 1)
    assert "the run 'locked' is in use" in runs.run("--resume", "locked", exit_code=2)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(timeout=60) == 143
