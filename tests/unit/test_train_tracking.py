"""The trackers hold the curves of a run: each is read back by its own library."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from heliostat.data.prepare import prepare
from heliostat.data.prepared import Prepared
from heliostat.errors import Stopped, TrainError
from heliostat.run import Run, check
from heliostat.train.journal import Journal
from heliostat.train.launch import train
from heliostat.train.loop import fit
from heliostat.train.tracking import flat, require_trackers
from heliostat.train.worker import LocalWorker, set_threads


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
    journal.write({"step": 2, "epoch": 0, "valid/macro_f1": 0.5})  # scores that come late
    journal.write({"step": 3, "epoch": 0, "valid/macro_f1": 0.625})
    journal.close()


SCORES = {2: 0.5, 3: 0.625, 5: 0.75}
EXPECTED = {step: pytest.approx(1.0 / step) for step in (1, 2, 3, 4, 5)}


def test_tensorboard_holds_each_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _write(tmp_path / "run", _run("tensorboard"))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "train/lr", "valid/macro_f1"}
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5]
    assert {event.step: event.value for event in events.Scalars("train/loss")} == EXPECTED
    assert {event.step: event.value for event in events.Scalars("valid/macro_f1")} == SCORES


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
    scores = client.get_metric_history(run.info.run_id, "valid/macro_f1")
    assert {each.step: each.value for each in scores} == SCORES
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


def _wandb_run(folder: Path) -> tuple[dict[str, dict[int, float]], list[int]]:
    """Name -> step -> value of a W&B run on disk, and the exit codes of its processes."""
    from wandb.proto import wandb_internal_pb2

    curves: dict[str, dict[int, float]] = {}
    codes = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in _wandb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            for name, value in items.items():
                axis = "valid_step" if name.startswith("valid") else "_step"
                if "/" in name:
                    curves.setdefault(name, {})[int(float(items[axis]))] = float(value)
            if record.WhichOneof("record_type") == "exit":
                codes.append(record.exit.exit_code)
    return curves, codes


@_needs("wandb")
def test_wandb_holds_the_run_in_its_folder_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    _write(tmp_path / "toy-1", _run("wandb"))
    curves, codes = _wandb_run(tmp_path / "toy-1")
    assert curves["train/loss"] == EXPECTED
    assert curves["valid/macro_f1"] == SCORES
    assert codes == [0, 0]


def _tensorboard_run(folder: Path) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    names = events.Tags()["scalars"]
    return {name: {event.step: event.value for event in events.Scalars(name)} for name in names}


def _mlflow_run(folder: Path) -> tuple[dict[str, dict[int, float]], str]:
    """Name -> step -> value of an MLflow run, and its status."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("pretrained")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.\"heliostat.run_id\" = '{folder.name}'")
    names = list(run.data.metrics)
    curves = {name: {m.step: m.value for m in client.get_metric_history(run.info.run_id, name)} for name in names}
    return curves, run.info.status


def _journal(folder: Path) -> dict[str, dict[int, float]]:
    """Name -> step -> value in `metrics.jsonl`, by the names that trackers are told."""
    curves: dict[str, dict[int, float]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        for name in row.keys() - {"step", "epoch", "progress"}:
            curves.setdefault(name if "/" in name else f"train/{name}", {})[row["step"]] = row[name]
    return curves


TERMS = ("masked", "sentence")
FACTS = ("lr", "grad_norm", "tokens_per_s", "unused_budget", "memory_mb")
SCORES_OF_BERT = ("loss", *TERMS, "perplexity", "masked_accuracy", "sentence_accuracy")
CURVES = {*(f"train/{name}" for name in (*TERMS, *FACTS)), *(f"valid/{name}" for name in SCORES_OF_BERT)}


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Run, Prepared]]:
    """pretraining("mlflow", lr=1e-3) is a run with two loss terms, and its prepared data."""
    home = tmp_path_factory.mktemp("home")
    lines = [f"The {word} coat {number} is warm. It was {word}. Nobody asked." for number in range(40) for word in "ab"]
    (home / "notes.txt").write_text("\n\n".join(lines))
    set_threads(1)

    def make(*trackers: str, **train: Any) -> tuple[Run, Prepared]:
        run = check(
            {
                "name": "pretrained",
                "data": {
                    "adapter": {"type": "core.documents", "give": "pairs", "max_words": 8},
                    "source": f"{home / 'notes.txt'}#documents=block",
                    "split": {"valid": 0.2, "test": 0},
                },
                "encoder": {"type": "core.text", "preset": "tiny", "vocab_size": 300, "fields": ["text", "next"]},
                "head": {"type": "core.bert", "sentences": "order"},
                "train": {
                    **{"epochs": 2, "tokens_per_batch": 400, "tokens_per_micro_batch": 300, "log_every": 2},
                    **{"trackers": trackers, **train},
                },
            }
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HELIOSTAT_HOME", str(home))
            return run, prepare(run)

    return make


def _assert_holds(curves: dict[str, dict[int, float]], folder: Path) -> None:
    """Every curve of the journal, step for step."""
    expected = _journal(folder)
    assert expected.keys() >= CURVES
    for name, points in expected.items():
        assert curves[name] == pytest.approx(points, rel=1e-5), name  # the journal rounds to six digits
    assert all(0 <= value < 1 for value in curves["train/unused_budget"].values())
    assert max(curves["train/unused_budget"].values()) > 0


def test_tensorboard_holds_every_curve_of_a_training(
    pretraining: Callable[..., tuple[Run, Prepared]], tmp_path: Path
) -> None:
    fit(*pretraining("tensorboard"), LocalWorker(), tmp_path / "run")
    _assert_holds(_tensorboard_run(tmp_path / "run"), tmp_path / "run")


@_needs("wandb")
def test_wandb_holds_every_curve_of_a_training(
    pretraining: Callable[..., tuple[Run, Prepared]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    fit(*pretraining("wandb"), LocalWorker(), tmp_path / "run")
    curves, codes = _wandb_run(tmp_path / "run")
    _assert_holds(curves, tmp_path / "run")
    assert codes == [0]


@_needs("mlflow")
def test_mlflow_holds_every_curve_of_a_training_and_how_it_ended(
    pretraining: Callable[..., tuple[Run, Prepared]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "stopped"
    asked = iter(range(1, 1000))
    with pytest.raises(Stopped):
        fit(*pretraining("mlflow"), LocalWorker(lambda: next(asked) >= 3), folder)
    assert _mlflow_run(folder)[1] == "KILLED"
    fit(*pretraining("mlflow"), LocalWorker(), folder)
    curves, status = _mlflow_run(folder)
    assert status == "FINISHED"
    _assert_holds(curves, folder)
    with pytest.raises(TrainError, match="not finite"):
        fit(*pretraining("mlflow", lr=1e30, clip_norm=None, epochs=5), LocalWorker(), tmp_path / "failed")
    assert _mlflow_run(tmp_path / "failed")[1] == "FAILED"


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
