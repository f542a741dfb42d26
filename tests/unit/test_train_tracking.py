"""The trackers hold the curves of a run: each is read back by its own library."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from heliostat.errors import TrainError
from heliostat.run import Run, check
from heliostat.train.journal import Journal
from heliostat.train.launch import train
from heliostat.train.tracking import flat, require_trackers


def _run(*trackers: str) -> Run:
    return check(
        {
            "name": "toy",
            "data": {"adapter": "core.columns", "source": "x.csv"},
            "encoder": {"type": "core.text", "preset": "tiny"},
            "head": "core.classification",
            "train": {"trackers": trackers},
        }
    )


def _write(folder: Path, run: Run) -> None:
    """Five updates and a validation, broken off after the fourth and gone on with from the third."""
    journal = Journal(folder, run, is_writer=True)
    journal.open(0)
    for step in (1, 2, 3, 4):
        journal.write({"step": step, "epoch": 0, "progress": step / 5, "loss": 1.0 / step, "lr": 1e-3})
    journal.close()
    journal.open(3)
    for step in (4, 5):
        journal.write({"step": step, "epoch": 0, "progress": step / 5, "loss": 1.0 / step, "lr": 1e-3})
    journal.write({"step": 5, "epoch": 1, "valid/macro_f1": 0.75})
    journal.close()


EXPECTED = {step: pytest.approx(1.0 / step) for step in (1, 2, 3, 4, 5)}


def test_tensorboard_holds_each_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _write(tmp_path / "run", _run("tensorboard"))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "train/lr", "valid/macro_f1"}
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5]
    assert {event.step: event.value for event in events.Scalars("train/loss")} == EXPECTED
    assert events.Scalars("valid/macro_f1")[0].value == 0.75


def _needs(package: str) -> pytest.MarkDecorator:
    reason = f"the extra heliostat[{package}] is not installed"
    return pytest.mark.skipif(util.find_spec(package) is None, reason=reason)


@_needs("mlflow")
def test_mlflow_holds_the_run_in_a_database_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "runs" / "toy-1", _run("mlflow"))
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("toy")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "toy-1"
    assert run.info.status == "FINISHED"
    assert run.data.params["train.optimizer.type"] == "adamw"
    assert {each.step: each.value for each in client.get_metric_history(run.info.run_id, "train/loss")} == EXPECTED
    assert run.data.metrics["valid/macro_f1"] == 0.75
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


def _wandb_records(data: bytes) -> Iterator[bytes]:
    """The records of a `.wandb` file: a header of 7 bytes, then LevelDB's log format in blocks of 32 KiB."""
    place, block, parts, last = 7, 32768, b"", {1, 4}
    while place + 7 <= len(data):
        if block - place % block < 7:  # too little is left of the block for another header
            place += block - place % block
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in last:
            yield parts
            parts = b""


@_needs("wandb")
def test_wandb_holds_the_run_in_its_folder_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb.proto import wandb_internal_pb2

    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder = tmp_path / "toy-1"
    _write(folder, _run("wandb"))
    losses: dict[int, Any] = {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in _wandb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            if "train/loss" in items:
                losses[record.history.step.num] = float(items["train/loss"])
    assert losses == EXPECTED


def test_a_tracker_that_is_not_installed_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    sentence = r"train\.trackers names 'wandb', which is not installed: pip install 'heliostat\[wandb\]'"
    with pytest.raises(TrainError, match=sentence):
        train(_run("wandb"))
    assert list(tmp_path.iterdir()) == []
    require_trackers(())


def test_no_tracker_is_imported_that_the_run_does_not_name(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from heliostat.train.journal import Journal;"
        "from heliostat.run import check;"
        "run = check({'name': 'x', 'data': {'adapter': 'core.columns', 'source': 'x'}, 'head': 'core.classification',"
        "'encoder': {'type': 'core.text', 'preset': 'tiny'}, 'train': {'trackers': []}});"
        "journal = Journal(Path(sys.argv[1]), run, is_writer=True); journal.open(0);"
        "journal.write({'step': 1, 'loss': 2.0}); journal.close();"
        "print([name for name in ('tensorboard', 'mlflow', 'wandb', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 2.0}\n'


def test_settings_are_told_by_their_dotted_keys() -> None:
    told = dict(flat(_run("tensorboard").dump()))
    assert told["train.optimizer.type"] == "adamw"
    assert told["head.type"] == "core.classification"
    assert told["data.split.by"] == "hash"
