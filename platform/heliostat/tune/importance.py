"""Which settings a sweep's scores hang on: functional ANOVA (Hutter et al. 2014), as Optuna computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from heliostat.run import TuneSettings
from heliostat.tune.records import Point, Trial
from heliostat.tune.space import Space
from heliostat.tune.study import Study

FEWEST = 8
"""Trials below which a share says nothing."""


class Importance(NamedTuple):
    """How much of what moves the score each setting explains; the shares add up to 1."""

    shares: dict[str, float]
    trials: int
    at_end: bool
    """Whether the scores are those of finished trials; else the first validation of all, which all of them have."""


def importance(space: Space, trials: Sequence[Trial]) -> Importance | None:
    """The share of each setting; None where too few trials tell of it, or settings changed while they trained.

    Trials that were stopped have no score to set beside those of finished ones. Where few are finished, the first
    validation of each is taken: it comes after the same share of every trial.
    """
    if any(trial.exploits for trial in trials):
        return None
    finished = [trial for trial in trials if trial.state == "finished"]
    at_end = len(finished) >= FEWEST
    scored = [
        (trial, trial.best if at_end else trial.curve[0]) for trial in (finished if at_end else trials) if trial.curve
    ]
    points = [(trial, point) for trial, point in scored if point is not None]
    if len(points) < FEWEST or len({point.score for _, point in points}) == 1:
        return None
    return Importance(_shares(space, points), len(points), at_end)


def _shares(space: Space, points: Sequence[tuple[Trial, Point]]) -> dict[str, float]:
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    study = Study(space, TuneSettings(search="random", scheduler="fifo"), epochs=1.0)
    for number, (trial, point) in enumerate(points):
        study.begin(number, dict(trial.values))
        study.end(Trial(number, trial.values, "finished", curve=(point,)))
    return get_param_importances(study.behind, evaluator=FanovaImportanceEvaluator(seed=7))
