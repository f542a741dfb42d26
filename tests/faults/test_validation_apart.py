"""A run whose checkpoints are validated apart is killed: the evaluator goes with it, and comes back without a gap."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

RUN = [
    "sentiment/tiny",
    "data.limit=400",
    "train.epochs=8",
    "train.checkpoint_every=3",
    "train.keep_checkpoints=1",
    "train.tokens_per_batch=1024",
    "train.validation=apart",
    "scaling.num_workers=1",
]


def _start(home: Path, *args: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "heliostat", "train", "--no-evaluate", *args]
    environment = {**os.environ, "HELIOSTAT_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    with (home / "driver.log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def _scored(folder: Path) -> list[int]:
    path = folder / "validations.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line)["step"] for line in text[: text.rfind("\n") + 1].splitlines()]


@pytest.mark.fault(
    "the command is killed while its checkpoints are validated apart",
    seen="nothing: the command is gone. heliostat train --resume ID goes on",
    lost="nothing: what was not scored is scored then",
    proof="each validation once, in order; the evaluator ends with the command",
)
@pytest.mark.sweep
def test_after_kill_9_of_the_driver_no_validation_is_lost_or_comes_twice(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "killed"
    driver = _start(tmp_path, *RUN, "--run-id", "killed")
    deadline = time.monotonic() + 180
    while not _scored(folder):
        assert driver.poll() is None, (tmp_path / "driver.log").read_text()[-3000:]
        assert time.monotonic() < deadline, "no checkpoint was ever scored"
        time.sleep(0.05)
    (evaluator,) = [
        child for child in psutil.Process(driver.pid).children() if "heliostat.train.evaluator" in child.cmdline()
    ]
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs([evaluator], timeout=30)
    assert alive == []
    before = _scored(folder)
    resumed = _start(tmp_path, "--resume", "killed")
    assert resumed.wait(timeout=300) == 0, (tmp_path / "driver.log").read_text()[-3000:]
    steps = _scored(folder)
    assert steps[: len(before)] == before
    assert steps == sorted(set(steps))
    assert len(steps) == 8
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sorted(row["step"] for row in rows if "valid/loss" in row) == steps
    outcome = json.loads((folder / "outcome.json").read_text())
    best = max((row for row in rows if "valid/loss" in row), key=lambda row: row["valid/macro_f1"])
    assert outcome["best"][0] == best["step"]
    left = {path.name for path in (folder / "checkpoints").iterdir()}
    assert left == {f"step-{step:08d}" for step in (best["step"], outcome["step"])}
