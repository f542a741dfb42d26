"""A run with its section `tune` -> what a sweep does, checked before anything starts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from heliostat.data.key import settings_key
from heliostat.data.plan import BatchPlan
from heliostat.data.prepared import Prepared
from heliostat.errors import Problem, RunError
from heliostat.plugin import TaskHead
from heliostat.registry import find
from heliostat.run import Run, TuneSettings, check, pinned, place
from heliostat.run.domains import dimension
from heliostat.train.progress import Timetable
from heliostat.tune.preflight import midway_problems
from heliostat.tune.space import MOST_POINTS, Space, Values, value_at

_TRIALS = 32
_MEMBERS = 8


@dataclass(frozen=True)
class Plan:
    """What a sweep does."""

    values: Mapping[str, Any]
    """Plain values of the run that is searched, addresses of other models pinned."""
    run: Run
    """The run as it stands, as a trial has it: with one worker where nobody asked for more."""
    settings: TuneSettings
    space: Space

    @property
    def total(self) -> int:
        """Trials, at most."""
        asked = self.settings.trials
        usual = _MEMBERS if self.settings.is_population else _TRIALS
        if self.settings.search == "grid":
            size = self.space.size() or 0
            return size if asked is None else min(size, asked)
        return min(asked or usual, self.space.size() or asked or usual)

    @property
    def head(self) -> type[TaskHead]:
        """The head of the run."""
        return find(self.run.head.type, TaskHead)  # type: ignore[type-abstract]

    @property
    def written(self) -> Mapping[str, str]:
        """What each searched setting may take, as a run file writes it."""
        return {each.key: str(each) for each in self.space.dimensions}

    def is_error(self, metric: str) -> bool:
        """Whether less of a validation score is better."""
        head: TaskHead = self.run.head.build()
        return head.is_error(metric)

    def best(self, values: Values) -> Run:
        """The run of a point as somebody would train it: with its own workers, trackers and validations."""
        return check(place(_without_tune(self.values), values))


def planned(values: Mapping[str, Any]) -> Plan:
    """The plan of a sweep over the run of `values`. Raises RunError with every mistake at once."""
    run = check(values)
    now = pinned(run)
    if now is not run:
        values = place(values, {"encoder.pretrained": now.dump()["encoder"]["pretrained"]})
    settings = run.tune or TuneSettings()
    declared = find(run.head.type, TaskHead).searched  # type: ignore[type-abstract]
    written = settings.space if settings.space is not None else dict(declared)
    base = place(_without_tune(values), _as_a_trial(run, settings))
    dimensions = [dimension(key, each) for key, each in written.items()]
    if settings.space is None:  # what a head declares knows nothing of the run, from which the search begins
        dimensions = [each.widened(value_at(run, each.key)) for each in dimensions]
    space = Space.of(base, dimensions)
    if settings.is_population:
        space = _midway(space, is_declared=settings.space is None)
    if settings.search == "grid":
        space.points()  # raises for endless ones
        if (size := space.size()) is None or size > MOST_POINTS:
            rule = f"a grid of more than {MOST_POINTS:,} points is no search. Take tpe, or coarser steps."
            raise RunError([Problem("tune.search", rule)])
    return Plan(values, check(base), settings, space)


def _midway(space: Space, *, is_declared: bool) -> Space:
    """The space of what may change in mid-run. Raises RunError for what somebody asked for and may not."""
    problems = midway_problems(space)
    if problems and not is_declared:
        raise RunError(problems, source="the search space")
    out = {problem.key for problem in problems}
    kept = [each for each in space.dimensions if out.isdisjoint((each.key, each.condition and each.condition.key))]
    return Space.of(space.base, kept)


def with_validations(plan: Plan, prepared: Prepared) -> tuple[Plan, float]:
    """The plan whose trials validate as often as it says, and the passes over the train split of one."""
    settings, lengths = plan.run.train, prepared.shards("train").lengths
    batches = BatchPlan(lengths, tokens_per_batch=settings.tokens_per_batch, seed=settings.seed)
    timetable = Timetable.of(settings, batches)
    epochs = timetable.epochs(timetable.position(timetable.num_steps))
    wanted = math.ceil(plan.settings.validations / epochs)
    if plan.settings.scheduler == "fifo" or wanted <= settings.evaluations_per_epoch:
        return plan, epochs
    base = place(plan.space.base, {"train.evaluations_per_epoch": wanted})
    return replace(plan, run=check(base), space=replace(plan.space, base=base)), epochs


def _without_tune(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "tune"}


def _as_a_trial(run: Run, settings: TuneSettings) -> Values:
    """What a trial has otherwise than the run: one checkpoint, nobody who is told its curves but us.

    It has as many workers as the run needs at least, and one where the run leaves that open.
    """
    workers = run.scaling.least_workers
    same: Values = {
        "scaling.num_workers": workers,
        "scaling.strategy": run.scaling.strategy if workers > 1 else "ddp",
        "train.trackers": [],
        "train.keep_checkpoints": 1,
        "train.validation": "inline",
        "train.mirror": None,
    }
    if settings.is_population:
        same["train.patience"] = None  # who has come to its end may still take over from others
    return {**same, "train.select": settings.metrics[0]} if settings.metrics else same


def data_of(run: Run) -> str:
    """What of a run shapes its data: runs that are alike in it share them."""
    return json.dumps(settings_key(run), sort_keys=True)
