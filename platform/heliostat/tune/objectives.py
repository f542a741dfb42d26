"""What trials are compared by: one score, or several of which no trial need be the best in all."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

from heliostat.component import closest
from heliostat.errors import Problem, RunError
from heliostat.run import MEASURED, TuneSettings
from heliostat.tune.policy import leader
from heliostat.tune.records import Aim, Trial


def aims_of(metric: str, settings: TuneSettings, is_error: Callable[[str], bool]) -> tuple[Aim, ...]:
    """All that trials are compared by, `metric` first. `is_error` says of a validation score whether less is better."""
    names = (metric, *settings.metrics[1:])
    return tuple(Aim(name, name in MEASURED or is_error(name)) for name in names)


def value_of(trial: Trial, name: str) -> float | None:
    """What the trial's best checkpoint has reached, as the head or the scales give it; None where nothing is known."""
    return trial.costs.get(name) if name in MEASURED else trial.scores.get(f"valid/{name}")


def reached(trial: Trial, aims: Sequence[Aim]) -> tuple[float, ...] | None:
    """All that the trial is compared by, the greater the better; None where something is not known."""
    values = [value_of(trial, aim.name) for aim in aims]
    if any(value is None or not math.isfinite(value) for value in values):
        return None
    return tuple(aim.sign * value for aim, value in zip(aims, values, strict=True) if value is not None)


def front(trials: Collection[Trial], aims: Sequence[Aim]) -> list[Trial]:
    """The trials that no other beats: at least as good in everything, and better in something. Best score first.

    Of those that were stopped early it knows where none was finished.
    """
    told = [trial for trial in trials if trial.has_ended and trial.state != "failed" and reached(trial, aims)]
    found = [trial for trial in told if trial.state == "finished"] or told
    values = {trial.number: reached(trial, aims) or () for trial in found}

    def is_beaten(trial: Trial) -> bool:
        own = values[trial.number]
        return any(
            other != own and all(theirs >= mine for theirs, mine in zip(other, own, strict=True))
            for other in values.values()
        )

    kept = {values[trial.number]: trial for trial in reversed(found) if not is_beaten(trial)}  # the first of equals
    return sorted(kept.values(), key=lambda trial: values[trial.number], reverse=True)


def knee(trials: Sequence[Trial], aims: Sequence[Aim]) -> Trial | None:
    """The trial of a front that is nearest to the best of everything, each measured on the front's own range."""
    found = [reached(trial, aims) or () for trial in trials]
    if not found:
        return None
    ends = [(min(column), max(column)) for column in zip(*found, strict=True)]

    def distance(values: tuple[float, ...]) -> float:
        return math.hypot(
            *((high - value) / ((high - low) or 1.0) for value, (low, high) in zip(values, ends, strict=True))
        )

    return min(zip(trials, found, strict=True), key=lambda pair: (distance(pair[1]), pair[0].number))[0]


def chosen(trials: Collection[Trial], aims: Sequence[Aim]) -> Trial | None:
    """The best trial: by the score where there is one, the knee of the front where there are several."""
    return leader(trials) if len(aims) < 2 else knee(front(trials, aims), aims)


def kept(trials: Collection[Trial], aims: Sequence[Aim]) -> set[int]:
    """The trials whose checkpoints are kept: the best, all of a front, and the run as it stood, set beside them."""
    best = leader(trials)
    found = front(trials, aims) if len(aims) > 1 else [best] if best else []
    return {trial.number for trial in found} | {trial.number for trial in trials if trial.is_default}


def check_objectives(names: Sequence[str], scores: Sequence[str]) -> None:
    """Raises RunError for something that nobody reports of a trial; the first name has been looked at before."""
    for name in names[1:]:
        if scores and name not in scores and name not in MEASURED:
            guess = closest(name, [*scores, *MEASURED])
            hint = f"Did you mean '{guess}'? " if guess else ""
            there = f"The head reports: {', '.join(scores)}. Measured are: {', '.join(MEASURED)}."
            raise RunError([Problem("tune.metric", f"is '{name}', which nobody reports. {hint}{there}")])
