"""Real sweeps over a toy: processes that train, fail, die and are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from heliostat import checkpoint
from heliostat.errors import RunError, Stopped, TrainError
from heliostat.models.store import ModelStore
from heliostat.run import check, load
from heliostat.tune import Sweep, tune
from heliostat.tune.best import stored, write_best
from heliostat.tune.gain import best_model
from heliostat.tune.records import SweepFolder
from heliostat.tune.watcher import SweepWatcher

Start = Callable[..., "subprocess.Popen[bytes]"]
Gone = Callable[[list[psutil.Process]], None]


def searched(toy: dict[str, Any], space: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {**toy, "tune": {"space": space, **settings}}


def records(sweep: Path) -> dict[str, bytes]:
    """The trials that have ended, each as it stands on the disk."""
    found = {path.name: path.read_bytes() for path in (sweep / "trials").glob("*.json")}
    return {name: text for name, text in found.items() if json.loads(text)["state"] != "running"}


@pytest.fixture(scope="module")
def grid() -> dict[str, Any]:
    return {"train.lr": "choice(1e-2,3e-3)", "head.fault": "choice(none,raise,die)"}


def test_planted_trials_fail_and_the_others_go_on(toy: dict[str, Any], grid: dict[str, Any]) -> None:
    sweep = tune(searched(toy, grid, search="grid", scheduler="fifo"))
    assert len(sweep.trials) == 6
    for trial in sweep.trials:
        fault = trial.values["head.fault"]
        assert trial.state == ("finished" if fault == "none" else "failed"), trial
        if fault == "raise":
            assert trial.reason == "ValueError: planted"
            assert "in counts" in (sweep.folder / "trials" / f"{sweep.id}-{trial.number:04}" / "error.txt").read_text()
        elif fault == "die":
            assert "its process is gone" in trial.reason
        else:
            assert trial.curve[-1].progress == 1.0
    assert sweep.trials[0].is_default
    assert tune(None, resume=sweep.id)._replace(plan=sweep.plan) == sweep  # nothing is left to do, and nothing changes
    left_over = set((sweep.folder / "trials").glob("*/checkpoints"))
    assert left_over == {sweep.checkpoint.parent, SweepFolder(sweep.folder).run_folder(0) / "checkpoints"}
    check_what_is_left(sweep, toy)


def check_what_is_left(sweep: Sweep, toy: dict[str, Any]) -> None:
    """The best run reads back, and the model in the store names its sweep."""
    path = write_best(sweep)
    best, text = load(str(path)), path.read_text()
    assert best.train.lr == sweep.best.values["train.lr"]
    assert best.train.evaluations_per_epoch == check(toy).train.evaluations_per_epoch
    assert re.search(r"lr: .*# searched: choice\(0\.01,0\.003\)", text)
    table = json.loads((sweep.folder / "trials.json").read_text())
    assert [trial["number"] for trial in table["trials"]] == list(range(6))
    version = stored(sweep, best_model(sweep))
    checkpoint.load(version.folder)
    assert version.metadata["run_id"] == f"{sweep.id}-{sweep.best.number:04}"
    assert version.metadata["lineage"][-1]["run_id"] == version.metadata["run_id"]
    assert [each.version for each in ModelStore().list("toy")] == [1]


@pytest.mark.fault(
    "the disk is full in a trial of a sweep",
    seen="error trial … could not be written: No space left on device … heliostat tune --resume …; exit code 2",
    lost="steps since the last checkpoints of trials under way, until the sweep is resumed",
    proof="no trial is recorded as failed: this one stays under way",
)
def test_a_full_disk_is_no_fault_of_a_trial(toy: dict[str, Any]) -> None:
    space = {"head.fault": "choice(none,full)"}
    with pytest.raises(TrainError, match=r"No space left on device.*Make room.*heliostat tune --resume toy-"):
        tune(searched(toy, space, search="grid", concurrent=1))
    (sweep,) = (Path(os.environ["HELIOSTAT_HOME"]) / "sweeps").iterdir()
    trials = {trial.values["head.fault"]: trial for trial in SweepFolder(sweep).read()}
    assert {fault: trial.state for fault, trial in trials.items()} == {"none": "finished", "full": "running"}


class Impatient(SweepWatcher):
    """Wishes to stop while data are prepared."""

    def __init__(self) -> None:
        self.has_asked = False

    def preparing(self, stage: str, done: int, total: int | None) -> None:
        if not self.has_asked:
            self.has_asked = True
            signal.raise_signal(signal.SIGTERM)


def test_a_wish_to_stop_is_heard_before_the_first_trial(toy: dict[str, Any]) -> None:
    with pytest.raises(Stopped, match=r"before the first trial.*heliostat tune --resume toy-") as stopped:
        tune(searched(toy, {"train.lr": "log(1e-4,1e-2)"}, trials=2), watcher=Impatient())
    assert stopped.value.exit_code == 143


def test_one_error_in_every_first_trial_ends_the_sweep_at_once(toy: dict[str, Any]) -> None:
    with pytest.raises(TrainError, match="the same error: ValueError: planted"):
        tune(searched(toy, {"train.lr": "log(1e-4,1e-2)", "head.fault": "choice(raise)"}, trials=50))
    (sweep,) = Path(os.environ["HELIOSTAT_HOME"]).glob("sweeps/*")
    assert 2 <= len(records(sweep)) <= 4


def test_a_run_that_cannot_be_built_is_refused_before_a_trial_begins(toy: dict[str, Any]) -> None:
    broken = {**toy, "head": {"type": "planted.head", "fault": "raise"}}
    with pytest.raises(TrainError, match=r"a trial cannot be built: ValueError: planted\. See .*trials\.log"):
        tune(searched(broken, {"train.lr": "log(1e-4,1e-2)"}))
    (log,) = Path(os.environ["HELIOSTAT_HOME"]).glob("sweeps/*/trials.log")
    assert "in counts" in log.read_text()


def test_most_of_the_trials_that_learn_nothing_end_before_half_their_budget(toy: dict[str, Any]) -> None:
    bad = [1e-9 * number for number in range(1, 13)]
    sweep = tune(searched(toy, {"train.lr": [*bad, 5e-3, 1e-2, 2e-2]}, search="grid", metric="loss"))
    stopped = [trial for trial in sweep.trials if trial.values["train.lr"] < 1e-6 and trial.state == "stopped"]
    assert sum(trial.curve[-1].progress <= 0.5 for trial in stopped) >= 6
    assert sweep.best.values["train.lr"] > 1e-3
    assert all(trial.reason.startswith("asha:") for trial in stopped)
    assert sweep.trials[0].is_default
    assert sweep.trials[0].state == "finished"


def test_a_score_that_nobody_reports_is_refused_before_a_trial_begins(toy: dict[str, Any]) -> None:
    with pytest.raises(RunError, match="does not report"):
        tune(searched(toy, {"train.lr": "log(1e-4,1e-2)"}, metric="macro_f2"))
    assert not list(Path(os.environ["HELIOSTAT_HOME"]).glob("sweeps/*/trials/*.json"))


def test_when_the_time_is_over_no_trial_begins_and_those_under_way_end(toy: dict[str, Any]) -> None:
    long = {**toy, "train": {**toy["train"], "epochs": 300}}
    sweep = tune(searched(long, {"train.lr": "log(1e-4,1e-2)"}, time_s=2.0, validations=600))
    assert len(sweep.trials) < 32
    kept = sweep.checkpoint.parent
    assert sweep.checkpoint == checkpoint.step_folder(kept, sweep.best.best.step if sweep.best.best else 0)
    assert checkpoint.newest(kept) == checkpoint.step_folder(kept, sweep.best.curve[-1].step)
    late = [trial for trial in sweep.trials if "time of 2 s is over" in trial.reason]
    assert late
    assert all(trial.state == "stopped" and trial.curve[-1].progress < 1 for trial in late)


def wait_for_records(driver: subprocess.Popen[bytes], tmp_path: Path, number: int) -> Path:
    """The sweep's folder, once so many trials have ended."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert driver.poll() is None, (tmp_path / "driver.log").read_text()
        for sweep in Path(os.environ["HELIOSTAT_HOME"]).glob("sweeps/*"):
            if len(records(sweep)) >= number:
                return sweep
        time.sleep(0.02)
    raise AssertionError((tmp_path / "driver.log").read_text())


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.sweep)])
def test_a_sweep_whose_driver_ended_goes_on_and_keeps_what_was_finished(
    toy: dict[str, Any], tmp_path: Path, start: Start, assert_gone: Gone, number: signal.Signals
) -> None:
    space = {"train.lr": "log(1e-4,3e-2)", "head.dropout": "choice(0.0,0.1)"}
    driver = start(searched(toy, space, trials=10, scheduler="fifo"))
    sweep = wait_for_records(driver, tmp_path, 3)
    processes = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(number)
    exit_code = driver.wait(timeout=60)
    assert exit_code == (-signal.SIGKILL if number == signal.SIGKILL else 143)
    assert_gone(processes)
    before = records(sweep)
    under_way = {path.name for path in (sweep / "trials").glob("*.json")} - set(before)
    assert under_way
    if number == signal.SIGTERM:
        assert f"heliostat tune --resume {sweep.name}" in (tmp_path / "driver.log").read_text()

    again = start({}, "--resume", sweep.name)
    assert again.wait(timeout=120) == 0, (tmp_path / "driver.log").read_text()
    after = records(sweep)
    assert len(after) == 10
    assert {name: after[name] for name in before} == before
    for path in under_way:
        trial = json.loads(after[path])
        assert trial["state"] == "finished"
        steps = [point["step"] for point in trial["curve"]]
        assert steps == sorted(set(steps))
        journal = sweep / "trials" / f"{sweep.name}-{path[:4]}" / "metrics.jsonl"
        rows = [json.loads(line) for line in journal.read_text().splitlines()]
        assert [row["step"] for row in rows if "valid/loss" in row] == steps
