"""What is refused before a sweep starts: resources that can never come, scores that nobody reports."""

from __future__ import annotations

from collections.abc import Sequence

from heliostat.component import closest
from heliostat.errors import Problem, RunError
from heliostat.run import Run, TuneSettings
from heliostat.tune.trials import Rehearsal


def places(settings: TuneSettings, threads_per_worker: int | None, cores: int) -> tuple[int, int]:
    """Trials at a time, and threads of each. Together they never want more cores than there are. Raises RunError."""
    if threads_per_worker is not None and threads_per_worker > cores:
        rule = f"is {threads_per_worker} and there are {cores} cores: such a trial would never begin. Lower it."
        raise RunError([Problem("scaling.threads_per_worker", rule)])
    most = cores // (threads_per_worker or 1)
    concurrent = settings.concurrent or most
    if concurrent > most:
        each = f"{threads_per_worker or 1} thread{'s' if (threads_per_worker or 1) > 1 else ''} each"
        rule = f"is {concurrent}, and {cores} cores hold {most} trials of {each}. Set it to {most}, or leave it out."
        raise RunError([Problem("tune.concurrent", rule)])
    trials = settings.trials or concurrent
    concurrent = min(concurrent, trials)
    return concurrent, threads_per_worker or max(1, cores // concurrent)


def check_metric(run: Run, default: str, scores: Sequence[str]) -> str:
    """The validation score that trials are compared by. Raises RunError when the head does not report it."""
    metric = run.train.select or default
    if scores and metric not in scores:
        guess = closest(metric, list(scores))
        hint = f"Did you mean '{guess}'? " if guess else ""
        rule = f"is '{metric}', which {run.head.type} does not report. {hint}It reports: {', '.join(scores)}."
        raise RunError([Problem("tune.metric", rule)])
    return metric


def fitting(concurrent: int, is_fixed: bool, rehearsals: Sequence[Rehearsal], free_mb: float) -> int:
    """How many of `concurrent` trials fit in memory. Raises RunError for a number that somebody asked for.

    `free_mb` is what is free beside the processes that rehearsed.
    """
    need = max(each.memory_mb for each in rehearsals)
    fits = int(free_mb / need)
    if fits >= concurrent:
        return concurrent
    if is_fixed or not fits:
        rule = (
            f"is {concurrent}, and a trial holds {need:,.0f} MB with its gradients and its optimiser before the first "
            f"batch; {free_mb:,.0f} MB are free. "
        )
        raise RunError([Problem("tune.concurrent", rule + (f"Set it to {fits}." if fits else "Take a smaller model."))])
    return fits
