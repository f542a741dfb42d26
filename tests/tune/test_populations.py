"""Real trials of two workers, and real populations: who is stopped, what is handed over, what a kill leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from heliostat import checkpoint
from heliostat.errors import TrainError
from heliostat.run import load
from heliostat.tune import Sweep, SweepWatcher, View, tune
from heliostat.tune.best import write_best
from heliostat.tune.forked import Forks
from heliostat.tune.pool import Pool
from heliostat.tune.preflight import Places
from heliostat.tune.records import Exploit, Point
from heliostat.tune.trials import Order, Validated

Start = Callable[..., "subprocess.Popen[bytes]"]
Gone = Callable[[list[psutil.Process]], None]
SPACE = {"train.lr": "log(1e-6,3e-2)", "train.weight_decay": "log(1e-3,0.3)", "head.dropout": "choice(0.0,0.1,0.2)"}
HANDED_OVER = (
    "encoder/model.safetensors",
    "head/model.safetensors",
    "state/optimizer.safetensors",
    "state/trainer.json",
)


def population(toy: dict[str, Any], workers: int, **settings: Any) -> dict[str, Any]:
    tune_settings = {"space": SPACE, "scheduler": "pbt", "trials": 4, "validations": 4, "metric": "loss", **settings}
    return {**toy, "scaling": {"num_workers": workers}, "tune": tune_settings}


class Witness(SweepWatcher):
    """Keeps what was handed over, before anybody goes on with it."""

    def __init__(self, keep: Path) -> None:
        self.keep = keep
        self.exploits: list[tuple[Exploit, dict[str, Any], dict[str, Any]]] = []

    def started(self, sweep_id: str, folder: Path) -> None:
        self.trials, self.id = folder / "trials", sweep_id

    def exploited(self, exploit: Exploit) -> None:
        donor, member = (self.trials / f"{self.id}-{number:04}" for number in (exploit.donor, exploit.member))
        paths = (checkpoint.step_folder(each / "checkpoints", exploit.step) for each in (donor, member))
        theirs, ours = map(checkpoint.verify, paths)
        self.exploits.append((exploit, theirs, ours))
        shutil.copytree(member, self.keep / f"{exploit.member}-{exploit.step}")


def replayed(sweep: Sweep, exploit: Exploit, folder: Path) -> Point:
    """The first validation of a training of two workers that goes on from what was handed over."""
    pool = Pool(Forks(1, folder / "log"), Places(1, 2, 1))
    try:
        pool.source.start()
        pool.begin(Order(0, sweep.plan.space.run(exploit.after), folder, sweep.prepared))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for event in pool.events(1.0):
                assert isinstance(event, Validated), event
                return event.point
    finally:
        pool.close()
    raise AssertionError("no validation")


def test_a_clone_goes_on_from_its_donors_step_and_weights(toy: dict[str, Any], tmp_path: Path) -> None:
    witness = Witness(tmp_path / "kept")
    sweep = tune(population(toy, 2), watcher=witness)
    assert witness.exploits
    for exploit, theirs, ours in witness.exploits:
        assert exploit.checkpoint
        assert exploit.donor_score > exploit.score
        for name in HANDED_OVER:
            assert ours["files"][name]["sha256"] == theirs["files"][name]["sha256"]
        assert ours["trainer"]["position"][0] == exploit.step
        assert ours["trainer"]["in_effect"]["world_size"] == 2
    last = max((each for each, _, _ in witness.exploits), key=lambda each: (each.step, each.member))
    clone = sweep.trials[last.member]
    assert clone.exploits[-1] == last
    assert [point.step for point in clone.curve] == [point.step for point in sweep.trials[0].curve]
    (after,) = [point for point in clone.curve if point.step > last.step][:1]
    assert replayed(sweep, last, tmp_path / "kept" / f"{last.member}-{last.step}") == after
    journal = (witness.trials / f"{sweep.id}-{last.member:04}" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in journal]
    assert steps == sorted(steps)
    assert not sweep.trials[0].exploits  # the run as it stands keeps its weights
    assert all(trial.state == "finished" for trial in sweep.trials)
    checkpoint.verify(sweep.checkpoint)
    check_best(sweep)


def check_best(sweep: Sweep) -> None:
    """The best run reads back, and says with which settings its weights were trained."""
    path = write_best(sweep)
    assert load(str(path)).train.lr == sweep.best.values["train.lr"]
    told = [line for line in path.read_text().splitlines() if line.startswith("#   from step ")]
    assert len(told) >= 1
    assert "train.lr" in told[-1]


def test_most_trials_of_two_workers_that_learn_nothing_end_before_half_their_budget(toy: dict[str, Any]) -> None:
    bad = [1e-9 * number for number in range(1, 17)]
    values = {**toy, "scaling": {"num_workers": 2}}
    sweep = tune({**values, "tune": {"space": {"train.lr": [*bad, 5e-3, 1e-2]}, "search": "grid", "metric": "loss"}})
    planted = [trial for trial in sweep.trials if trial.values["train.lr"] < 1e-6]
    early = [trial for trial in planted if trial.state == "stopped" and trial.curve[-1].progress < 0.5]
    assert len(planted) == 16
    assert len(early) >= 8
    assert sweep.best.values["train.lr"] > 1e-3
    state = json.loads((sweep.checkpoint / "state" / "trainer.json").read_text())
    assert state["in_effect"]["world_size"] == 2


def test_a_trial_of_two_workers_fails_with_the_workers_error(toy: dict[str, Any]) -> None:
    space = {"head.fault": "choice(none,raise)"}
    values = {**toy, "scaling": {"num_workers": 2}, "tune": {"space": space, "search": "grid", "scheduler": "fifo"}}
    sweep = tune(values)
    for trial in sweep.trials:
        fault = trial.values["head.fault"]
        assert (trial.state, trial.reason) == (
            ("finished", "") if fault == "none" else ("failed", "ValueError: planted")
        )


class Killer(SweepWatcher):
    """Kills one process of a trial that has validated."""

    killed = 0

    def update(self, view: View) -> None:
        under_way = [trial for trial in view.trials if not trial.has_ended]
        if not self.killed and under_way and all(len(trial.curve) > 1 for trial in under_way):
            ours = psutil.Process().children()
            (nursery,) = (each for each in ours if "heliostat.tune.nursery" in each.cmdline())
            worker = nursery.children()[-1]
            worker.kill()
            self.killed = worker.pid


def test_a_trial_goes_on_when_one_of_its_workers_is_killed(toy: dict[str, Any]) -> None:
    killer = Killer()
    values = {**toy, "scaling": {"num_workers": 2}, "train": {**toy["train"], "epochs": 6}}
    sweep = tune(
        {**values, "tune": {"space": {"train.lr": [1e-2, 3e-3]}, "search": "grid", "validations": 12}}, watcher=killer
    )
    assert killer.killed
    assert not [trial for trial in sweep.trials if trial.state not in ("finished", "stopped")]
    assert sweep.trials[0].curve[-1].progress == 1.0


def test_a_population_of_equals_fails_with_the_reason(toy: dict[str, Any]) -> None:
    same = {"train.clip_norm": "uniform(1e6,2e6)"}  # which no gradient reaches
    with pytest.raises(TrainError, match="without an exploit: in 2 turns no member scored below one at") as error:
        tune(population(toy, 1, space=same, trials=2, validations=2))
    assert error.value.exit_code == 2


def told_of(sweep: Path) -> dict[str, Any]:
    """What the records say, but for how long it took and for hashes, into which the sweep's id goes."""
    records = {path.name: json.loads(path.read_text()) for path in sorted((sweep / "trials").glob("*.json"))}
    for record in records.values():
        record["seconds"] = 0
        assert all(len(exploit.pop("checkpoint")) == 64 for exploit in record["exploits"])
    return records


@pytest.mark.sweep
def test_a_population_whose_driver_was_killed_goes_on_as_if_it_had_not_been(
    toy: dict[str, Any], tmp_path: Path, start: Start, assert_gone: Gone
) -> None:
    values = population(toy, 2, scheduler="pb2")
    driver = start(values)
    turns = wait_for_turn(driver, tmp_path, 2)
    processes = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGKILL)
    driver.wait(timeout=60)
    assert_gone(processes)
    before = {path.name: path.read_bytes() for path in turns.glob("*.json")}
    sweep = turns.parent
    again = start({}, "--resume", sweep.name, "--no-store")
    assert again.wait(timeout=120) == 0, (tmp_path / "driver.log").read_text()
    assert {name: (turns / name).read_bytes() for name in before} == before  # nothing is decided twice
    unbroken = tune(values)
    assert told_of(sweep) == told_of(unbroken.folder)
    assert sum(len(record["exploits"]) for record in told_of(sweep).values()) >= 1
    text = (tmp_path / "driver.log").read_text()
    assert "goes on from trial" in text


def wait_for_turn(driver: Any, tmp_path: Path, turn: int) -> Path:
    """The folder of turns, once so many are over."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert driver.poll() is None, (tmp_path / "driver.log").read_text()
        for found in Path(os.environ["HELIOSTAT_HOME"]).glob(f"sweeps/*/turns/{turn:04}.json"):
            return found.parent
        time.sleep(0.02)
    raise AssertionError((tmp_path / "driver.log").read_text())
