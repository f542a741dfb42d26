"""`torchrun -m heliostat train`: one voice, one run, a wish to stop, a lost process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from heliostat import checkpoint

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def run_file(rows: Path, tmp_path: Path) -> Path:
    """A run of 250 steps on the 65 rows."""
    encoder = {"type": "core.text", "preset": "tiny", "vocab_size": 300, "dropout": 0.0}
    values: dict[str, Any] = {
        "name": "rows",
        "data": {"adapter": "core.columns", "source": str(rows), "split": {"by": "column", "column": "split"}},
        "encoder": encoder,
        "head": {"type": "core.classification", "dropout": 0.0},
        "train": {"epochs": 9, "max_steps": 250, "tokens_per_batch": 24, "precision": "fp32", "log_every": 1},
    }
    path = tmp_path / "rows.yaml"
    path.write_text(json.dumps(values))
    return path


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start("train", ..., nproc=2) starts the command under torchrun, or alone; none is left at the end."""
    started: list[subprocess.Popen[str]] = []
    environment = {**os.environ, "HELIOSTAT_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def start(*arguments: str, nproc: int = 0, restarts: int = 0) -> subprocess.Popen[str]:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={nproc}"] if nproc else []
        launcher += [f"--max-restarts={restarts}"] if restarts else []
        command = [sys.executable, *launcher, "-m", "heliostat", "train", *arguments]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
            for each in family:
                each.kill()
            process.wait()


def _steps(folder: Path) -> list[int]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["step"] for line in lines if '"loss"' in line and line.endswith("}")]


def _wait_for_step(process: subprocess.Popen[str], folder: Path, step: int) -> None:
    deadline = time.monotonic() + 240
    while max(_steps(folder), default=0) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _ended(process: subprocess.Popen[str]) -> str:
    said = process.communicate(timeout=280)[0]
    assert process.returncode == 0, said
    return said


@pytest.mark.sweep
def test_a_wish_to_stop_is_kept_and_one_worker_goes_on(start: Start, run_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "runs" / "pair"
    settings = ("--no-evaluate", "--run-id", "pair", "scaling.num_workers=2", "scaling.strategy=fsdp")
    process = start(str(run_file), *settings, nproc=2)
    _wait_for_step(process, folder, 10)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[0]
    assert "Continue with: heliostat train --resume pair" in said
    newest = checkpoint.newest(folder / "checkpoints")
    assert newest is not None
    assert checkpoint.verify(newest)["trainer"]["in_effect"]["strategy"] == "fsdp"
    refused = start("--resume", "pair", "--no-evaluate", "train.lr=1").communicate(timeout=120)[0]
    assert "cannot be changed in a run that goes on" in refused
    said = _ended(start("--resume", "pair", "--no-evaluate", "scaling.num_workers=1"))
    assert "single on 1 x cpu, fp32" in said
    assert _steps(folder) == list(range(1, 251))


def test_after_a_lost_process_the_same_run_goes_on_and_one_process_speaks(
    start: Start, run_file: Path, tmp_path: Path
) -> None:
    process = start(str(run_file), "--no-evaluate", "train.checkpoint_every=5", nproc=2, restarts=1)
    runs = tmp_path / "home" / "runs"
    deadline = time.monotonic() + 240
    while not list(runs.glob("*/checkpoints/*/manifest.json")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children()
    os.kill(workers[-1].pid, signal.SIGKILL)
    said = _ended(process)
    (folder,) = runs.iterdir()
    assert _steps(folder) == list(range(1, 251))
    assert said.count("250 steps in") == 1
    assert "ddp on 2 x cpu, fp32" in said
    assert "(100.00%) trained" not in said  # BERT's pooler is kept and frozen


def test_another_number_of_processes_than_asked_for_is_refused(start: Start, run_file: Path, tmp_path: Path) -> None:
    said = start(str(run_file), "scaling.num_workers=3", nproc=2).communicate(timeout=240)[0]
    assert said.count("scaling.num_workers is 3 and torchrun started 2") == 1
    assert not list((tmp_path / "home" / "runs").glob("*/checkpoints"))
