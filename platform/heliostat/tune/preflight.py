"""What is refused before a sweep starts: resources that can never come, scores that nobody reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from heliostat.component import closest
from heliostat.data.key import settings_key
from heliostat.errors import Problem, RunError, TrainError
from heliostat.run import Run, TuneSettings
from heliostat.tune.space import Space, is_run
from heliostat.tune.trials import Rehearsal, Weight
from heliostat.tune.varies import why_not_midway

_CANNOT = "cannot change in the middle of a training, as it does in a population"
_WAY_OUT = "Leave it out, or take tune.scheduler=asha."


class Machines(NamedTuple):
    """What trials may take."""

    cores: tuple[int, ...]
    """Of each machine."""
    free: int
    """Cores that nobody holds, over all machines."""
    gpus: int = 0
    free_gpus: int = 0
    is_cluster: bool = False

    @property
    def where(self) -> str:
        """The machines in words."""
        if not self.is_cluster:
            return f"{sum(self.cores)} cores"
        machines = f"{len(self.cores)} machine" + ("s" if len(self.cores) > 1 else "")
        return f"{sum(self.cores)} cores on {machines} of the cluster"

    def workers(self, threads: int, *, on_gpus: bool) -> int:
        """Workers of so many threads that have room when nobody else is there."""
        room = sum(cores // threads for cores in self.cores)
        return min(room, self.gpus) if on_gpus else room


class Places(NamedTuple):
    """How trials share the machines. Together they never want more cores than there are."""

    concurrent: int
    """Trials at a time."""
    workers: int
    """Of each trial."""
    threads: int
    """Of each worker."""
    on_gpus: bool = False
    """Whether each worker has a GPU of its own (on a cluster)."""


def places(settings: TuneSettings, workers: int, threads_per_worker: int | None, machines: Machines) -> Places:
    """How trials share the machines. Raises RunError for what could never begin, TrainError when others are there."""
    threads = threads_per_worker or 1
    if threads > max(machines.cores, default=0):
        rule = f"is {threads} and there are {machines.where}: such a trial would never begin. Lower it."
        raise RunError([Problem("scaling.threads_per_worker", rule)])
    on_gpus = workers <= machines.gpus
    room = machines.workers(threads, on_gpus=on_gpus)
    each = f"{threads} thread{'s' if threads > 1 else ''}" + (" and a GPU" if on_gpus else "")
    if workers > room:
        rule = f"is {workers}, and {machines.where} hold {room} workers of {each}: such a trial would never begin."
        way_out = f"Set it to {room}" + (", or take fewer threads." if threads > 1 else ".")
        raise RunError([Problem("scaling.num_workers", f"{rule} {way_out}")])
    of = f"{each} each" if workers == 1 else f"{workers} workers of {each}"
    most = room // workers
    concurrent = settings.concurrent or most
    if concurrent > most:
        rule = f"is {concurrent}, and {machines.where} hold {most} trials of {of}. Set it to {most}, or leave it out."
        raise RunError([Problem("tune.concurrent", rule)])
    free = min(machines.free // threads, machines.free_gpus if on_gpus else room) // workers
    if free < (settings.concurrent or 1):
        raise TrainError(
            f"{settings.concurrent or 1} trial{'s' if (settings.concurrent or 1) > 1 else ''} of {of} cannot begin: of "
            f"{machines.where}, {machines.free} are free now. Wait for who holds the others, or ask for less."
        )
    concurrent = min(concurrent, free, settings.trials or concurrent)
    return Places(concurrent, workers, threads_per_worker or _threads(concurrent * workers, machines), on_gpus)


def _threads(workers: int, machines: Machines) -> int:
    """The most threads with which so many workers still have room in what is free."""
    fits = (
        threads
        for threads in range(max(machines.cores), 0, -1)
        if sum(cores // threads for cores in machines.cores) >= workers and threads * workers <= machines.free
    )
    return next(fits, 1)


def check_metric(run: Run, default: str, scores: Sequence[str]) -> str:
    """The validation score that trials are compared by. Raises RunError when the head does not report it."""
    metric = run.train.select or default
    if scores and metric not in scores:
        guess = closest(metric, list(scores))
        hint = f"Did you mean '{guess}'? " if guess else ""
        rule = f"is '{metric}', which {run.head.type} does not report. {hint}It reports: {', '.join(scores)}."
        raise RunError([Problem("tune.metric", rule)])
    return metric


def midway_problems(space: Space) -> list[Problem]:
    """The settings that cannot change in the middle of a training, as a population changes them, and why."""
    found = {each.key: why_not_midway(each.key) for each in space.dimensions}
    base = settings_key(space.run({}))
    for each, values in space.ends():
        if not found[each.key] and is_run(space, values) and settings_key(space.run(values)) != base:
            found[each.key] = "shapes the data"
    return [Problem(key, f"{_CANNOT}: it {why}. {_WAY_OUT}") for key, why in found.items() if why]


def check_shapes(rehearsal: Rehearsal, weights: Sequence[tuple[str, Weight | str]]) -> None:
    """Raise RunError for settings, by their keys, with which a model has other weights than the run as it stands."""
    odd = dict.fromkeys(key for key, each in weights if isinstance(each, Weight) and each.shapes != rehearsal.shapes)
    if odd:
        rule = f"{_CANNOT}: it decides which weights a model has. {_WAY_OUT}"
        raise RunError([Problem(key, rule) for key in odd], source="the search space")


class Largest(NamedTuple):
    """The most that a worker of any trial holds, as far as it can be told before they train."""

    memory_mb: float
    at: Mapping[str, Any]
    """The settings with which it does; empty for the run as it stands."""

    def __str__(self) -> str:
        at = ", ".join(f"{key}={value}" for key, value in self.at.items())
        return f"the largest trial, at {at}," if at else "a trial"


def largest(rehearsal: Rehearsal, weights: Sequence[tuple[Mapping[str, Any], Weight | str]]) -> Largest:
    """Of the run that was rehearsed and of those that were weighed; what cannot be built weighs nothing."""
    there = [Largest(rehearsal.weighing(each), values) for values, each in weights if isinstance(each, Weight)]
    return max([Largest(rehearsal.memory_mb, {}), *there], key=lambda each: each.memory_mb)


def heaviest(weighed: Sequence[tuple[str, Any, Weight | str]]) -> dict[str, Any]:
    """Dotted key -> the value of those tried with which the model is largest."""
    most: dict[str, tuple[int, Any]] = {}
    for key, value, weight in weighed:
        if isinstance(weight, Weight) and (key not in most or weight.parameters > most[key][0]):
            most[key] = (weight.parameters, value)
    return {key: value for key, (_, value) in most.items()}


def fitting(
    concurrent: int, is_fixed: bool, rehearsals: Sequence[Rehearsal], need: Largest | None = None, workers: int = 1
) -> int:
    """How many of `concurrent` trials fit in memory. Raises RunError for a number that somebody asked for."""
    need = need or Largest(max(each.memory_mb for each in rehearsals), {})
    there: dict[str, list[Rehearsal]] = defaultdict(list)
    for each in rehearsals:
        there[each.machine].append(each)
    # What is free beside the processes that rehearsed, and what these hold themselves.
    free = [min(each.free_mb for each in some) + sum(each.memory_mb for each in some) for some in there.values()]
    fits = sum(int(mb / need.memory_mb) for mb in free) // workers if max(free) < float("inf") else concurrent
    if fits >= concurrent:
        return concurrent
    if is_fixed or not fits:
        times = f" x {workers} workers" if workers > 1 else ""
        rule = (
            f"is {concurrent}, and {need} holds {need.memory_mb:,.0f} MB{times} with its gradients and its optimiser "
            f"before the first batch; {sum(free):,.0f} MB are free. "
        )
        raise RunError([Problem("tune.concurrent", rule + (f"Set it to {fits}." if fits else "Take a smaller model."))])
    return fits
