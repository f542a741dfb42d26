"""What trials are compared by: one score, or several of which no trial need be the best in all."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from heliostat.component import closest
from heliostat.errors import Problem, RunError
from heliostat.run import MEASURED
from heliostat.tune.policy import leader
from heliostat.tune.records import Trial


def sign_of(name: str) -> float:
    """1 for what is better when it is greater, -1 for a loss, an error or a cost."""
    return -1.0 if name in MEASURED or name == "loss" or name.endswith("_error") else 1.0


def value_of(trial: Trial, name: str) -> float | None:
    """What the trial's best checkpoint has reached, as the head or the scales give it; None where nothing is known."""
    return trial.costs.get(name) if name in MEASURED else trial.scores.get(f"valid/{name}")


def aims(trial: Trial, names: Sequence[str]) -> tuple[float, ...] | None:
    """All that the trial is compared by, the greater the better; None where something is not known."""
    values = [value_of(trial, name) for name in names]
    if any(value is None or not math.isfinite(value) for value in values):
        return None
    return tuple(sign_of(name) * value for name, value in zip(names, values, strict=True) if value is not None)


def front(trials: Collection[Trial], names: Sequence[str]) -> list[Trial]:
    """The trials that no other beats: at least as good in everything, and better in something. Best score first.

    Of those that were stopped early it knows where none was finished.
    """
    told = [trial for trial in trials if trial.has_ended and trial.state != "failed" and aims(trial, names)]
    found = [trial for trial in told if trial.state == "finished"] or told
    reached = {trial.number: aims(trial, names) or () for trial in found}

    def is_beaten(trial: Trial) -> bool:
        own = reached[trial.number]
        return any(
            other != own and all(theirs >= mine for theirs, mine in zip(other, own, strict=True))
            for other in reached.values()
        )

    kept = {reached[trial.number]: trial for trial in reversed(found) if not is_beaten(trial)}  # the first of equals
    return sorted(kept.values(), key=lambda trial: reached[trial.number], reverse=True)


def knee(trials: Sequence[Trial], names: Sequence[str]) -> Trial | None:
    """The trial of a front that is nearest to the best of everything, each measured on the front's own range."""
    reached = [aims(trial, names) or () for trial in trials]
    if not reached:
        return None
    ends = [(min(column), max(column)) for column in zip(*reached, strict=True)]

    def distance(values: tuple[float, ...]) -> float:
        return math.hypot(
            *((high - value) / ((high - low) or 1.0) for value, (low, high) in zip(values, ends, strict=True))
        )

    return min(zip(trials, reached, strict=True), key=lambda pair: (distance(pair[1]), pair[0].number))[0]


def chosen(trials: Collection[Trial], names: Sequence[str]) -> Trial | None:
    """The best trial: by the score where there is one, the knee of the front where there are several."""
    return leader(trials) if len(names) < 2 else knee(front(trials, names), names)


def kept(trials: Collection[Trial], names: Sequence[str]) -> set[int]:
    """The trials whose checkpoints are kept: the best, all of a front, and the run as it stood, set beside them."""
    best = leader(trials)
    found = front(trials, names) if len(names) > 1 else [best] if best else []
    return {trial.number for trial in found} | {trial.number for trial in trials if trial.is_default}


def check_objectives(names: Sequence[str], scores: Sequence[str]) -> None:
    """Raises RunError for something that nobody reports of a trial; the first name has been looked at before."""
    for name in names[1:]:
        if scores and name not in scores and name not in MEASURED:
            guess = closest(name, [*scores, *MEASURED])
            hint = f"Did you mean '{guess}'? " if guess else ""
            there = f"The head reports: {', '.join(scores)}. Measured are: {', '.join(MEASURED)}."
            raise RunError([Problem("tune.metric", f"is '{name}', which nobody reports. {hint}{there}")])
