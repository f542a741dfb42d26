"""The training loop in this process: resume, stop, and what it does with a loss that is not finite."""

from __future__ import annotations

import csv
import json
import math
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heliostat import checkpoint
from heliostat.data.prepare import prepare
from heliostat.data.prepared import Prepared
from heliostat.errors import Stopped, TrainError
from heliostat.run import Run, check
from heliostat.train.loop import fit
from heliostat.train.policy import Continue, Judged, Stop
from heliostat.train.worker import LocalWorker, set_threads

_WORDS = {"good": ["lovely", "great", "warm"], "bad": ["awful", "thin", "poor"]}
_FILLERS = ["the", "dress", "is", "a", "very", "and", "my", "shirt", "it", "was"]


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 made-up lines of two moods."""
    dice = random.Random(3)
    path = tmp_path_factory.mktemp("reviews") / "reviews.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(120):
            label = dice.choice(["good", "bad"])
            words = [
                dice.choice(_WORDS[label] if dice.random() < 0.3 else _FILLERS) for _ in range(dice.randint(3, 20))
            ]
            writer.writerow([f"{' '.join(words)} {number}", label])
    return path


@pytest.fixture(scope="module")
def toy(reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Run, Prepared]]:
    """toy(epochs=2, ...) is a run with these train settings and its prepared data."""
    home = tmp_path_factory.mktemp("home")
    set_threads(1)

    def make(dropout: float = 0.1, decide: str = "most_probable", **train: Any) -> tuple[Run, Prepared]:
        run = check(
            {
                "name": "toy",
                "data": {"adapter": "core.columns", "source": str(reviews), "split": {"valid": 0.2, "test": 0.1}},
                "encoder": {"type": "core.text", "preset": "tiny", "vocab_size": 300, "dropout": dropout},
                "head": {"type": "core.classification", "dropout": dropout, "decide": decide},
                "train": {"epochs": 2, "tokens_per_batch": 256, "log_every": 1, "seed": 5, **train},
            }
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HELIOSTAT_HOME", str(home))
            return run, prepare(run)

    return make


def _hashes(folder: Path) -> dict[str, str]:
    files = checkpoint.verify(folder)["files"]
    return {name: files[name]["sha256"] for name in sorted(files) if name.endswith((".safetensors", "trainer.json"))}


def _newest(folder: Path) -> Path:
    path = checkpoint.newest(folder / "checkpoints")
    assert path is not None
    return path


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ema": 0.9, "tokens_per_micro_batch": 64, "checkpoint_every": 2},
        {"optimizer": {"type": "sgd", "nesterov": True}, "lr": 0.05},
        {"optimizer": {"type": "rmsprop", "momentum": 0.5}, "schedule": "wsd", "decay": 0.5},
        {"optimizer": "muon", "layer_decay": 0.8, "schedule": "cosine"},
    ],
    ids=["adamw", "ema", "sgd", "rmsprop", "muon"],
)
def test_a_run_stopped_at_any_step_ends_bit_identical(
    toy: Callable[..., tuple[Run, Prepared]], tmp_path: Path, settings: dict[str, Any]
) -> None:
    run, prepared = toy(**settings)
    whole = fit(run, prepared, LocalWorker(), tmp_path / "whole")
    for stop_at in (1, whole.step // 2, whole.step - 1):
        folder = tmp_path / f"stopped-{stop_at}"
        asked = iter(range(1, 1000))
        with pytest.raises(Stopped, match=f"step {stop_at}"):
            fit(run, prepared, LocalWorker(lambda asked=asked, at=stop_at: next(asked) >= at), folder)
        assert fit(run, prepared, LocalWorker(), folder).best == whole.best
        assert _hashes(_newest(folder)) == _hashes(_newest(tmp_path / "whole"))


def test_a_damaged_checkpoint_is_passed_over(toy: Callable[..., tuple[Run, Prepared]], tmp_path: Path) -> None:
    run, prepared = toy(checkpoint_every=2, keep_checkpoints=5)
    fit(run, prepared, LocalWorker(), tmp_path / "whole")
    last = _newest(tmp_path / "whole")
    expected = _hashes(last)
    weights = last / "encoder" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert _newest(tmp_path / "whole") < last
    fit(run, prepared, LocalWorker(), tmp_path / "whole")
    assert _hashes(_newest(tmp_path / "whole")) == expected


def test_micro_batches_do_not_change_the_loss(toy: Callable[..., tuple[Run, Prepared]], tmp_path: Path) -> None:
    losses = []
    for name, size in (("one", 256), ("many", 32)):
        run, prepared = toy(dropout=0.0, tokens_per_micro_batch=size, precision="fp32")
        fit(run, prepared, LocalWorker(), tmp_path / name)
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses.append([row["loss"] for row in rows if "loss" in row])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_loss_that_is_not_finite_stops_the_run_with_a_way_out(
    toy: Callable[..., tuple[Run, Prepared]], tmp_path: Path
) -> None:
    run, prepared = toy(lr=1e30, clip_norm=None, epochs=3)
    with pytest.raises(TrainError, match=r"not finite at step \d+: lower train\.lr"):
        fit(run, prepared, LocalWorker(), tmp_path / "nan")


def test_patience_ends_a_run_that_gets_no_better(toy: Callable[..., tuple[Run, Prepared]], tmp_path: Path) -> None:
    run, prepared = toy(lr=1e-9, epochs=50, patience=2)
    outcome = fit(run, prepared, LocalWorker(), tmp_path / "patient")
    assert "no better validation for 2 in a row" in outcome.reason
    assert outcome.step < 50 * 5


def test_old_checkpoints_go_and_the_best_stays(toy: Callable[..., tuple[Run, Prepared]], tmp_path: Path) -> None:
    run, prepared = toy(epochs=4, checkpoint_every=1, keep_checkpoints=1)
    outcome = fit(run, prepared, LocalWorker(), tmp_path / "kept")
    left = {path.name for path in (tmp_path / "kept" / "checkpoints").iterdir()}
    assert left == {f"step-{outcome.step:08d}", f"step-{outcome.best.step:08d}"}


def test_no_thread_stays_that_wrote_a_checkpoint(toy: Callable[..., tuple[Run, Prepared]], tmp_path: Path) -> None:
    """Its OpenMP threads would stay, too, and slow every later update."""
    run, prepared = toy(epochs=3)
    stay: list[bool] = []

    class Looks(LocalWorker):
        def judge(self, judged: Judged) -> Continue | Stop:
            writers = [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]
            for thread in writers:
                thread.join(timeout=60)
            stay.append(any(thread.is_alive() for thread in writers))
            return super().judge(judged)

    fit(run, prepared, Looks(), tmp_path / "threads")
    assert stay == [False] * 3


def test_a_finished_model_answers_with_the_fitted_decision(
    toy: Callable[..., tuple[Run, Prepared]], tmp_path: Path
) -> None:
    from heliostat.predict import Predictor
    from heliostat.train.finish import finished_model

    run, prepared = toy(decide="macro_f1", epochs=4, lr=5e-3)
    outcome = fit(run, prepared, LocalWorker(), tmp_path / "run")
    best = checkpoint.step_folder(tmp_path / "run" / "checkpoints", outcome.best.step)
    model = finished_model(tmp_path / "run", best, prepared)
    assert model == tmp_path / "run" / "model"
    assert not (model / "state").exists()
    plain, decided = Predictor.load(best), Predictor.load(model)
    assert decided.check_golden().num_requests == len(decided.golden())
    texts = [{"text": row["text"]} for row in prepared.examples("valid")]
    offsets, temperature = decided.head.decision
    for before, after in zip(plain.predict(texts), decided.predict(texts), strict=True):
        moved = {
            label: (p * math.exp(offset)) ** (1 / temperature)
            for (label, p), offset in zip(before["probabilities"].items(), offsets, strict=True)
        }
        total = sum(moved.values())
        assert after["probabilities"] == pytest.approx({label: p / total for label, p in moved.items()}, abs=1e-5)


def test_the_average_and_the_weights_themselves_are_both_scored(
    toy: Callable[..., tuple[Run, Prepared]], tmp_path: Path
) -> None:
    run, prepared = toy(ema=0.99, lr=5e-3, precision="fp32")
    outcome = fit(run, prepared, LocalWorker(), tmp_path / "ema")
    rows = [json.loads(line) for line in (tmp_path / "ema" / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "valid/loss" in row][-1]
    assert {name.removeprefix("valid/") for name in last if name.startswith("valid/")} == {
        name.removeprefix("valid_raw/") for name in last if name.startswith("valid_raw/")
    }
    assert last["valid/loss"] != last["valid_raw/loss"]
    best = max(row["valid/macro_f1"] for row in rows if "valid/loss" in row)
    assert outcome.best.score == pytest.approx(best, rel=1e-5)


def test_a_score_that_no_head_gives_is_named(toy: Callable[..., tuple[Run, Prepared]], tmp_path: Path) -> None:
    run, prepared = toy(select="macro_f2", max_steps=1)
    with pytest.raises(TrainError, match=r"no validation score 'macro_f2'\. There are: loss, accuracy, macro_f1"):
        fit(run, prepared, LocalWorker(), tmp_path / "select")


def test_a_checkpoint_of_other_data_is_refused(toy: Callable[..., tuple[Run, Prepared]], tmp_path: Path) -> None:
    run, prepared = toy(max_steps=3)
    fit(run, prepared, LocalWorker(), tmp_path / "run")
    run, prepared = toy(tokens_per_batch=10**6, epochs=8)  # one batch an epoch: there is no fourth one
    with pytest.raises(TrainError, match=r"the data have no batch 3 in epoch 0.*Put back the data"):
        fit(run, prepared, LocalWorker(), tmp_path / "run")


def test_a_finished_model_has_its_name_when_it_has_its_golden_answers(
    toy: Callable[..., tuple[Run, Prepared]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from heliostat.train.finish import finished_model

    run, prepared = toy(decide="macro_f1", max_steps=2)
    outcome = fit(run, prepared, LocalWorker(), tmp_path / "run")
    best = checkpoint.step_folder(tmp_path / "run" / "checkpoints", outcome.best.step)
    sealed, seal = list[Path](), checkpoint.seal

    def seal_once(folder: Path, facts: dict[str, Any]) -> None:
        if sealed:
            raise KeyboardInterrupt
        sealed.append(folder)
        seal(folder, facts)

    monkeypatch.setattr(checkpoint, "seal", seal_once)
    with pytest.raises(KeyboardInterrupt):
        finished_model(tmp_path / "run", best, prepared)
    assert not (tmp_path / "run" / "model").exists()
    monkeypatch.undo()
    assert "trainer" in checkpoint.verify(finished_model(tmp_path / "run", best, prepared))
    assert not (tmp_path / "run" / ".model").exists()
