"""The best run once more, on all that choices were made on, too: nothing is chosen any more."""

from __future__ import annotations

from pathlib import Path

from heliostat.errors import Stopped
from heliostat.run import Run, check, place
from heliostat.train import run_folder
from heliostat.train.finish import calibrated_as
from heliostat.train.launch import TrainResult, Watcher, train
from heliostat.tune.driver import Sweep


def refit_run(sweep: Sweep) -> Run:
    """The best run over the train and the valid split, for as many updates as its trial had made when it was best."""
    best = sweep.best.best
    assert best  # or it would not be the best
    values = sweep.plan.best(dict(sweep.best.values)).dump()
    fixed = {
        "train.learns_from": "train+valid",
        "train.max_steps": best.step,
        "train.select": None,
        "train.patience": None,
        "train.validation": "inline",
        "train.evaluations_per_epoch": 1,
    }
    return check(place(values, fixed))


def refit(sweep: Sweep, model: Path, watcher: Watcher) -> TrainResult:
    """Train it as the run `<sweep>-refit`, or go on with that one. `model` is the best trial's.

    A decision or calibration of the head is that of `model`: it was fitted on answers to rows that `model` had not
    seen, and of those none are left here. What encoder and head had fitted is the same in both.
    """
    run_id = f"{sweep.id}-refit"
    is_begun = (run_folder.runs_folder() / run_id / "run.json").is_file()
    try:
        if is_begun:
            result = train(None, resume=run_id, watcher=watcher)
        else:
            result = train(refit_run(sweep), run_id=run_id, watcher=watcher)
    except Stopped as stopped:
        first = str(stopped).partition(" Continue with:")[0]
        raise Stopped(
            f"{first} Continue with: heliostat tune --resume {sweep.id}", exit_code=stopped.exit_code
        ) from None
    if model != sweep.checkpoint:  # it was calibrated
        result = result._replace(checkpoint=calibrated_as(result.folder, result.checkpoint, model))
    return result
