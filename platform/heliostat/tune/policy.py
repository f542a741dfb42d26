"""Decisions of a sweep, apart from doing."""

from __future__ import annotations

import re
from collections.abc import Collection

from heliostat.train.policy import rank
from heliostat.tune.records import Trial

_NUMBERS = re.compile(r"\d+(\.\d+)?(e[-+]?\d+)?")


def leader(trials: Collection[Trial]) -> Trial | None:
    """The trial with the best validation among those that made every update; the first of equals.

    One that was stopped early counts where none was finished.
    """
    told = [trial for trial in trials if trial.has_ended and trial.state != "failed" and trial.best]
    finished = [trial for trial in told if trial.state == "finished"]
    return max(
        finished or told, key=lambda trial: (rank(trial.best.score if trial.best else 0.0), -trial.number), default=None
    )


def hopeless(trials: Collection[Trial], concurrent: int, total: int) -> str:
    """The error that each of the first trials ended with, where it is one and the same; else empty.

    Numbers in it do not count: they tell of a value, or of an address in memory.
    """
    failed = [trial for trial in trials if trial.state == "failed"]
    if any(trial.curve or trial.state in ("finished", "stopped") for trial in trials):
        return ""
    if len(failed) < min(max(2, concurrent), total) or len({_NUMBERS.sub("0", each.reason) for each in failed}) > 1:
        return ""
    return failed[0].reason


def goes_on(trial: Trial, had: int, deaths: int, max_failures: int) -> bool:
    """Whether a trial of which a process died goes on from its last checkpoint.

    It does when it has validated since it began (`had` points then): one that dies at the same place again would do so
    for ever. `deaths` of at most `max_failures` are behind it, this one included.
    """
    return len(trial.curve) > had and deaths <= max_failures


def seconds_left(
    trials: Collection[Trial], total: int, concurrent: int, under_way_s: float, *, in_turns: bool = False
) -> float | None:
    """Seconds until the last trial ends if the rest are as long as those so far; None before the first has ended.

    `under_way_s` is how long the trials under way have been running, added up. Those that train in turns end together,
    and what is left is told from the share of each that is done.
    """
    if in_turns:
        done = sum(trial.curve[-1].progress if trial.curve else 0.0 for trial in trials)
        rest = sum(1 - (trial.curve[-1].progress if trial.curve else 0.0) for trial in trials if not trial.has_ended)
        return sum(trial.seconds for trial in trials) / done * rest / max(1, concurrent) if done else None
    ended = [trial.seconds for trial in trials if trial.has_ended]
    if not ended:
        return None
    rest = (total - len(ended)) * sum(ended) / len(ended) - under_way_s
    return max(0.0, rest / max(1, concurrent))
