"""A run that is killed goes on to the very weights of the run that was not.

Victims are taken only among the descendants of the driver that the test itself started.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

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


def _start(home: Path, *args: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "heliostat", "train", "--no-evaluate", *args]
    environment = {**os.environ, "HELIOSTAT_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    with (home / "driver.log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def _finish(driver: subprocess.Popen[bytes], home: Path) -> None:
    assert driver.wait(timeout=300) == 0, (home / "driver.log").read_text()[-3000:]


def _steps(home: Path, run_id: str) -> int:
    path = home / "runs" / run_id / "metrics.jsonl"
    lines = path.read_text().splitlines()[:-1] if path.exists() else []
    return max([json.loads(line)["step"] for line in lines], default=0)


def _wait_for_step(driver: subprocess.Popen[bytes], home: Path, run_id: str, step: int) -> None:
    deadline = time.monotonic() + 180
    while _steps(home, run_id) < step:
        assert driver.poll() is None, (home / "driver.log").read_text()[-3000:]
        assert time.monotonic() < deadline, f"step {step} never came"
        time.sleep(0.02)


def _weights(home: Path, run_id: str) -> dict[str, str]:
    """sha256 of the weights, the optimiser's state and the position in the last checkpoint."""
    last = max((home / "runs" / run_id / "checkpoints").glob("step-*"))
    names = ["encoder/model.safetensors", "head/model.safetensors", "state/optimizer.safetensors", "state/trainer.json"]
    return {name: hashlib.sha256((last / name).read_bytes()).hexdigest() for name in names}


def _alive(processes: list[psutil.Process], timeout_s: float = 30) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    return alive


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def unbroken(home: Path) -> dict[str, str]:
    _finish(_start(home, *RUN, "--run-id", "unbroken"), home)
    return _weights(home, "unbroken")


@pytest.fixture(scope="module")
def num_steps(home: Path, unbroken: dict[str, str]) -> int:
    return int(json.loads((home / "runs" / "unbroken" / "outcome.json").read_text())["step"])


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


def test_killed_worker(home: Path, unbroken: dict[str, str], num_steps: int, dice: random.Random) -> None:
    driver = _start(home, *RUN, "--run-id", "worker-killed")
    _wait_for_step(driver, home, "worker-killed", dice.randint(4, num_steps // 2))
    family = psutil.Process(driver.pid).children(recursive=True)
    workers = [process for process in family if "TrainWorker" in " ".join(process.cmdline())]
    assert len(workers) >= 2, [process.cmdline() for process in family]
    dice.choice(workers).send_signal(signal.SIGKILL)
    fresh = _workers_not_among(family, driver)
    assert {worker.ppid() for worker in fresh} <= {process.pid for process in family}, "they import what was there"
    _finish(driver, home)
    assert _weights(home, "worker-killed") == unbroken
    assert _alive(family) == []


def test_killed_driver_and_resume(home: Path, unbroken: dict[str, str], num_steps: int, dice: random.Random) -> None:
    driver = _start(home, *RUN, "--run-id", "driver-killed")
    _wait_for_step(driver, home, "driver-killed", dice.randint(4, num_steps // 2))
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait()
    _finish(_start(home, "--resume", "driver-killed"), home)
    assert _weights(home, "driver-killed") == unbroken
    # Nothing of ours runs after a kill -9: Ray's own agents find out by themselves, in a minute or two.
    assert _alive(family, timeout_s=240) == []


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_run_keeps_a_checkpoint_and_goes_on(
    home: Path, unbroken: dict[str, str], num_steps: int, number: signal.Signals, exit_code: int, dice: random.Random
) -> None:
    run_id = f"stopped-{exit_code}"
    driver = _start(home, *RUN, "--run-id", run_id)
    _wait_for_step(driver, home, run_id, dice.randint(2, num_steps // 2))
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(number)
    assert driver.wait(timeout=60) == exit_code, (home / "driver.log").read_text()[-3000:]
    assert _alive(family) == []
    assert any((home / "runs" / run_id / "checkpoints").glob("step-*/manifest.json"))
    assert f"--resume {run_id}" in (home / "driver.log").read_text()
    _finish(_start(home, "--resume", run_id), home)
    assert _weights(home, run_id) == unbroken


def test_one_run_is_not_trained_twice_at_once(home: Path, unbroken: dict[str, str]) -> None:
    driver = _start(home, *RUN, "--run-id", "locked")
    _wait_for_step(driver, home, "locked", 1)
    second = _start(home, "--resume", "locked")
    assert second.wait(timeout=60) == 2
    assert "the run 'locked' is in use" in (home / "driver.log").read_text()
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(timeout=60) == 143
