"""What a search has gained: the best model beside that of the run as it stood, on rows that nothing was chosen on.

Scores on the valid split choose the best of many draws, so its lead there is partly luck; no interval says how much.
The test split has chosen nothing: both models answer it once, and the difference has a paired interval.
"""

from __future__ import annotations

import json
from pathlib import Path

from heliostat.data.prepared import Prepared
from heliostat.evaluate.evaluation import Progress
from heliostat.evaluate.paired import PairedReport, Side, compare_models
from heliostat.ingest import prepare
from heliostat.predict import Predictor
from heliostat.train.finish import finished_model
from heliostat.tune.driver import Sweep, best_checkpoint
from heliostat.tune.records import SweepFolder, Trial


def best_model(sweep: Sweep) -> Path:
    """The best trial's model, calibrated where its head does that."""
    return finished_model(sweep.checkpoint.parent.parent, sweep.checkpoint, Prepared.open(sweep.prepared))


def why_unknown(sweep: Sweep) -> str:
    """Why the gain cannot be told; empty where it can."""
    default = default_of(sweep)
    if default is None:
        far = sweep.plan.space.outside(sweep.plan.run)
        why = [f"{key}={json.dumps(value)} lies outside of {sweep.plan.written[key]}" for key, value in far.items()]
        reason = "; ".join(why) or "it came to no validation, or left no checkpoint"
        return f"The run as it stood is not among the trials: {reason}. So nothing says what the search has gained."
    if default.number == sweep.best.number:
        return "The run as it stood is the best of those that made every update: the search has gained nothing."
    prepared = Prepared.open(sweep.prepared)
    if not prepared.counts["test"]:
        return "There is no test split (data.split.test is 0), so nobody knows how much of the lead on valid is luck."
    if not prepared.parts(sweep.plan.space.run(sweep.best.values)).head.metrics():
        return "The head has no metrics for a test split, so nobody knows how much of the lead on valid is luck."
    return ""


def default_of(sweep: Sweep) -> Trial | None:
    """The trial of the run as it stood, where it came to an end and its checkpoint is there."""
    found = next((trial for trial in sweep.trials if trial.is_default and trial.best), None)
    return found if found and best_checkpoint(SweepFolder(sweep.folder), found) else None


def gain(sweep: Sweep, model: Path, on_progress: Progress | None = None) -> PairedReport:
    """Both models on the test split, in `compare/` of the sweep's folder. Ask `why_unknown` first.

    `model` is the best trial's. Raises DataError when the two cannot be compared.
    """
    default = default_of(sweep)
    assert default
    folder = SweepFolder(sweep.folder)
    found = best_checkpoint(folder, default)
    assert found
    data = Prepared.open(sweep.prepared), prepare(sweep.plan.space.run(default.values))
    other = finished_model(folder.run_folder(default.number), found, data[1])
    first, second = (
        Side(name, Predictor.load(path), prepared.shards("test").ids.tolist(), list(prepared.examples("test")))
        for name, path, prepared in zip((f"trial {sweep.best.number}", "as it was"), (model, other), data, strict=True)
    )
    return compare_models(first, second, sweep.folder / "compare", rows_name="test", on_progress=on_progress)
