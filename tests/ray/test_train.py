"""Training on Ray Train's workers: the loss is that of one worker, and every rank takes every step."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from heliostat import checkpoint
from heliostat.errors import Stopped, TrainError
from heliostat.run import Run, check
from heliostat.train.crew import share_of_cores
from heliostat.train.launch import Watcher, train

NUM_ROWS = 65


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """65 train rows, which two workers cannot share evenly, and some for the other splits."""
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "split"])
        for number in range(NUM_ROWS + 20):
            split = "train" if number < NUM_ROWS else "valid" if number < NUM_ROWS + 10 else "test"
            mood = "good lovely" if number % 3 else "bad poor"
            writer.writerow([f"{mood} {'word ' * (number % 7)}{number}", "glad" if number % 3 else "sad", split])
    return path


def _run(rows: Path, num_workers: Any, strategy: str = "ddp", **train_settings: Any) -> Run:
    return check(
        {
            "name": "rows",
            "data": {"adapter": "core.columns", "source": str(rows), "split": {"by": "column", "column": "split"}},
            "encoder": {"type": "core.text", "preset": "tiny", "vocab_size": 300, "dropout": 0.0},
            "head": {"type": "core.classification", "dropout": 0.0, "class_weights": "balanced"},
            "train": {
                "epochs": 3,
                "tokens_per_batch": 64,
                "tokens_per_micro_batch": 24,
                "precision": "fp32",
                "log_every": 1,
                "lr": 2e-3,
                **train_settings,
            },
            "scaling": {"num_workers": num_workers, "strategy": strategy},
        }
    )


def _losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_the_loss_does_not_depend_on_the_number_of_workers(
    rows: Path, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    alone, together = (train(_run(rows, num_workers)) for num_workers in (1, 2))
    losses = _losses(alone.folder)
    assert len(losses) == alone.steps == together.steps
    assert _losses(together.folder) == pytest.approx(losses, rel=1e-4)
    manifest = checkpoint.verify(together.checkpoint)
    assert manifest["trainer"]["in_effect"]["world_size"] == 2
    assert manifest["trainer"]["in_effect"]["strategy"] == "ddp"


@pytest.mark.sweep
def test_as_many_workers_as_there_are_share_the_model(
    rows: Path, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    alone, together = train(_run(rows, 1)), train(_run(rows, [1, 2], "fsdp"))
    assert _losses(together.folder) == pytest.approx(_losses(alone.folder), rel=1e-4)
    in_effect = checkpoint.verify(together.checkpoint)["trainer"]["in_effect"]
    assert (in_effect["strategy"], in_effect["world_size"]) == ("fsdp", 2)


def test_a_worker_without_rows_still_steps(
    rows: Path, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    settings = {"tokens_per_batch": 1, "max_steps": 12}  # one example a batch: the second worker has none
    alone, together = (train(_run(rows, num_workers, **settings)) for num_workers in (1, 2))
    assert _losses(together.folder) == pytest.approx(_losses(alone.folder), rel=1e-4)


def test_workers_that_can_never_come_are_refused_at_once(
    rows: Path, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    with pytest.raises(TrainError, match=r"scaling\.num_workers is 99 and the cluster has 2 CPUs: take 2 workers"):
        train(_run(rows, 99))


def test_auto_takes_one_worker_a_machine_of_the_cluster(
    rows: Path, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    done = train(_run(rows, "auto", max_steps=2))
    state = json.loads((done.checkpoint / "state" / "trainer.json").read_text(encoding="utf-8"))
    assert (state["in_effect"]["world_size"], state["in_effect"]["strategy"]) == (1, "ddp")  # alone, but on Ray
    assert state["in_effect"]["threads_per_worker"] == share_of_cores(1)


def test_an_error_of_the_user_on_a_worker_is_not_tried_again(
    rows: Path, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    with pytest.raises(TrainError, match=r"not finite at step \d+: lower train\.lr"):
        train(_run(rows, 2, lr=1e30, clip_norm=None))


class _Blocker(Watcher):
    """Puts a file where the checkpoints are to lie: of the workers the first alone meets it."""

    def training(self, folder: Path) -> None:
        (folder / "checkpoints").touch()


@pytest.mark.fault(
    "of two workers on Ray the one that writes checkpoints cannot",
    seen="within seconds the sentence of that worker: error checkpoint … could not be written …",
    lost="steps since the last checkpoint, until it is resumed",
    proof="nobody waits for scaling.timeout_s, and nothing is started again",
)
@pytest.mark.sweep
@pytest.mark.timeout(150)
def test_an_error_of_one_worker_ends_all_without_waiting_for_the_others(
    rows: Path, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    run = _run(rows, 2)
    assert run.scaling.timeout_s >= 600
    with pytest.raises(TrainError, match=r"checkpoint .* could not be written: .*continue with --resume broken"):
        train(run, run_id="broken", watcher=_Blocker())


class _Leaver(Watcher):
    """Wishes to stop as soon as workers are waited for."""

    def __init__(self) -> None:
        self.has_asked = False

    def training(self, folder: Path) -> None:
        if not self.has_asked:
            self.has_asked = True
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.sweep
@pytest.mark.timeout(150)
def test_a_run_that_waits_for_room_can_be_stopped(
    rows: Path, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.util.placement_group import placement_group, remove_placement_group

    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    others = placement_group([{"CPU": 2}])
    assert others.wait(30)
    with pytest.raises(Stopped, match="--resume waiting") as stopped:
        train(_run(rows, 2, max_steps=2), run_id="waiting", watcher=_Leaver())
    assert stopped.value.exit_code == 143
    remove_placement_group(others)
    assert train(None, resume="waiting").steps == 2


@pytest.mark.sweep
def test_a_task_of_ray_validates_while_the_workers_go_on(
    rows: Path, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    apart = train(_run(rows, 2, validation="apart"))
    inline = train(_run(rows, 1))
    found, expected = (_validations(result.folder) for result in (apart, inline))
    assert len(found) == len(expected) == 3
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-3)
    assert apart.checkpoint.name == inline.checkpoint.name
    assert (apart.folder / "validations.jsonl").exists()
    assert not (apart.folder / "evaluator.log").exists()  # that of a process on this machine


def _validations(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return sorted((row for row in rows if "valid/loss" in row), key=lambda row: row["step"])
