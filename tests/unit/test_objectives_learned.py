"""Objectives of pretraining, trained: the loss falls, answers can be had, a run that was stopped ends bit-identical."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from heliostat import checkpoint
from heliostat.data.prepared import Prepared
from heliostat.errors import Stopped
from heliostat.run import Run
from heliostat.train.loop import fit
from heliostat.train.worker import LocalWorker

Make = Callable[..., tuple[Run, Prepared]]
LEARNED = [
    ("masked_lm", 20, "masked_accuracy", 0.3),
    ("next_sentence", 24, "accuracy", 0.75),
    ("sentence_order", 12, "accuracy", 0.8),
    ("bert", 20, "masked_accuracy", 0.3),
    ("causal_lm", 10, "accuracy", 0.5),
    ("denoising", 12, "accuracy", 0.4),
]
"""Of each objective: for how many epochs, and which score is more than what."""


def valid_rows(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "valid/loss" in row]


@pytest.mark.parametrize(("objective", "epochs", "score", "least"), LEARNED)
def test_the_loss_falls_and_answers_can_be_had(
    objective_run: Make, tmp_path: Path, objective: str, epochs: int, score: str, least: float
) -> None:
    from heliostat.predict import Predictor

    run, prepared = objective_run(
        objective, dropout=0.0, epochs=epochs, lr=2e-3, schedule="constant", keep_checkpoints=1
    )
    outcome = fit(run, prepared, LocalWorker(), tmp_path)
    rows = valid_rows(tmp_path)
    assert min(row["valid/loss"] for row in rows) < 0.95 * rows[0]["valid/loss"]
    assert max(row[f"valid/{score}"] for row in rows) > least
    if "valid/perplexity" in rows[0]:
        term = "valid/masked" if objective == "bert" else "valid/loss"
        assert rows[0]["valid/perplexity"] == pytest.approx(np.exp(rows[0][term]), rel=1e-4)
    predictor = Predictor.load(checkpoint.step_folder(tmp_path / "checkpoints", outcome.best.step))
    assert len(predictor.predict(list(predictor.head.samples))) == 2
    predictor.check_golden()


@pytest.mark.parametrize("objective", [each[0] for each in LEARNED])
def test_a_run_stopped_in_mid_epoch_ends_bit_identical(objective_run: Make, tmp_path: Path, objective: str) -> None:
    run, prepared = objective_run(objective, ema=0.9 if objective == "bert" else None)
    whole = fit(run, prepared, LocalWorker(), tmp_path / "whole")
    assert whole.step > 4
    for stop_at in (1, whole.step // 2, whole.step - 1):
        folder = tmp_path / f"stopped-{stop_at}"
        asked = iter(range(1, 1000))
        with pytest.raises(Stopped, match=f"step {stop_at}"):
            fit(run, prepared, LocalWorker(lambda asked=asked, at=stop_at: next(asked) >= at), folder)
        assert fit(run, prepared, LocalWorker(), folder).best == whole.best
        assert hashes(folder) == hashes(tmp_path / "whole")


def hashes(folder: Path) -> dict[str, str]:
    path = checkpoint.newest(folder / "checkpoints")
    assert path is not None
    files = checkpoint.verify(path)["files"]
    return {name: files[name]["sha256"] for name in sorted(files) if name.endswith((".safetensors", "trainer.json"))}
