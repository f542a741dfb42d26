"""Sweeps on a Ray that is there: trials are actors of it, alone or several together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from heliostat import checkpoint
from heliostat.errors import RunError, TrainError
from heliostat.tune import SweepWatcher, View, tune


@pytest.fixture
def toy(ray_cluster: None, toy_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Plain values of a run of 3 epochs over 120 rows, on the Ray of the ring, in a home of its own."""
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    return {
        "name": "toy",
        "data": {"adapter": "core.columns", "source": str(toy_rows), "split": {"valid": 0.2, "test": 0.1}},
        "encoder": {"type": "core.text", "preset": "tiny", "vocab_size": 300},
        "head": "core.classification",
        "train": {"epochs": 3, "tokens_per_batch": 160, "lr": 1e-2, "trackers": []},
    }


def nothing_is_held() -> bool:
    """Whether all of Ray's CPUs are free again, soon."""
    import time

    import ray

    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if ray.available_resources().get("CPU") == 2.0:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.sweep
def test_a_population_of_two_worker_trials_trains_on_a_cluster(toy: dict[str, Any]) -> None:
    tune_settings = {"space": {"train.lr": "log(1e-6,3e-2)"}, "scheduler": "pbt", "trials": 3, "validations": 3}
    sweep = tune({**toy, "scaling": {"num_workers": 2}, "tune": {**tune_settings, "metric": "loss"}})
    assert sum(len(trial.exploits) for trial in sweep.trials) >= 1
    state = json.loads((sweep.checkpoint / "state" / "trainer.json").read_text())
    assert state["in_effect"]["world_size"] == 2
    checkpoint.verify(sweep.checkpoint)
    assert nothing_is_held()


class Killer(SweepWatcher):
    """Kills one actor of a trial that has validated, as a lost machine would."""

    killed = 0

    def update(self, view: View) -> None:
        under_way = [trial for trial in view.trials if not trial.has_ended]
        if not self.killed and len(under_way) == 2 and all(trial.curve for trial in under_way):
            ours = psutil.Process().children(recursive=True)
            victim = next(each for each in ours if each.cmdline()[:1] and each.cmdline()[0].startswith("ray::Desk"))
            victim.kill()
            self.killed = victim.pid


def test_trials_of_one_worker_are_stopped_and_one_goes_on_after_its_actor_died(toy: dict[str, Any]) -> None:
    killer, bad = Killer(), [1e-9, 2e-9, 3e-9, 4e-9]
    toy["train"]["epochs"] = 6
    space = {"train.lr": [*bad, 5e-3, 1e-2]}
    sweep = tune(
        {**toy, "tune": {"space": space, "search": "grid", "metric": "loss", "validations": 18}}, watcher=killer
    )
    assert killer.killed
    states = {trial.values["train.lr"]: trial.state for trial in sweep.trials}
    assert states[1e-2] == "finished"
    assert not [trial for trial in sweep.trials if trial.state not in ("finished", "stopped")]
    assert [state for lr, state in states.items() if lr < 1e-6].count("stopped") >= 2
    assert nothing_is_held()


def test_what_a_cluster_cannot_hold_now_or_ever_is_refused_with_numbers(toy: dict[str, Any]) -> None:
    from ray.util import placement_group, remove_placement_group

    space = {"train.lr": "log(1e-4,1e-2)"}
    with pytest.raises(RunError, match=r"num_workers: is 3, and 2 cores on 1 machine of the cluster hold 2 workers"):
        tune({**toy, "scaling": {"num_workers": 3}, "tune": {"space": space}})
    busy = placement_group([{"CPU": 1}])
    assert busy.wait(20)
    try:
        with pytest.raises(TrainError, match=r"1 trial of 2 workers of 1 thread cannot begin: .* 1 are free now"):
            tune({**toy, "scaling": {"num_workers": 2}, "tune": {"space": space}})
    finally:
        remove_placement_group(busy)
