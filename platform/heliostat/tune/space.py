"""The search space of a sweep, checked against the run before anything starts."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from heliostat.component import closest
from heliostat.errors import Problem, RunError
from heliostat.run import Run, check, place
from heliostat.run.domains import Choice, Dimension, Range
from heliostat.tune.varies import why_not

Values = dict[str, Any]
"""Dotted key -> the value that a trial has there; a key whose condition does not hold is absent."""

MOST_POINTS = 20_000
"""Points of a grid, and of a conditional space that are counted one by one."""
_TRIED = 64
"""Points drawn at random that must make whole runs before a sweep starts."""


@dataclass(frozen=True)
class Space:
    """The searched settings of a run, each before those whose conditions name it."""

    base: Mapping[str, Any]
    """Plain values of the run that every point is laid over."""
    dimensions: tuple[Dimension, ...]

    @classmethod
    def of(cls, base: Mapping[str, Any], dimensions: Iterable[Dimension]) -> Space:
        """The space of `dimensions` over the run of `base`. Raises RunError with every mistake at once."""
        dimensions = tuple(dimensions)
        problems = _lone_problems(dimensions)
        wrong = {problem.key for problem in problems}
        sound = [each for each in dimensions if each.key not in wrong]
        problems += cls(base, tuple(sound))._value_problems()
        if problems:
            raise RunError(problems, source="the search space")
        space = cls(base, _in_order(dimensions))
        space._check_whole()
        return space

    def run(self, values: Mapping[str, Any]) -> Run:
        """The checked run of one point. Raises RunError."""
        return check(place(self.base, values))

    def drawn(self, draw: Callable[[Dimension], Any]) -> Values:
        """One point: `draw` is asked for each setting that exists under the choices before it."""
        values: Values = {}
        for each in self.dimensions:
            if _holds(each, values):
                values[each.key] = draw(each)
        return values

    def points(self) -> Iterator[Values]:
        """Every point. Raises RunError for a setting whose values cannot be counted."""
        endless = [each.key for each in self.dimensions if each.domain.size() is None]
        if endless:
            rule = (
                "has no countable values for a grid: take choice(...), int(...) or quniform(...), or tune.search=tpe."
            )
            raise RunError([Problem(key, rule) for key in endless])
        return self._below({}, self.dimensions)

    def size(self) -> int | None:
        """How many points there are; None where a setting has endless values, or conditions make too many to count."""
        sizes = [each.domain.size() for each in self.dimensions]
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes):
            return None
        if not any(each.condition for each in self.dimensions):
            return math.prod(known)
        counted = sum(1 for _ in islice(self.points(), MOST_POINTS))
        return counted if counted < MOST_POINTS else None

    def ends(self) -> Iterator[tuple[Dimension, Values]]:
        """Each end of each range and each choice, one at a time, with the choices under which it exists."""
        by_key = {each.key: each for each in self.dimensions}
        for each in self.dimensions:
            for value in each.domain.ends:
                yield each, {**_needed(each, by_key), each.key: value}

    def default(self, run: Run) -> Values | None:
        """The point at which `run` itself lies; None where it lies outside."""
        return None if self.outside(run) else self._of(run)

    def outside(self, run: Run) -> Values:
        """What of `run` its settings' domains do not hold, by key."""
        values = self._of(run)
        found = [each.key for each in self.dimensions if each.key in values and not each.domain.holds(values[each.key])]
        return {key: values[key] for key in found}

    def _of(self, run: Run) -> Values:
        return self.drawn(lambda each: self._own(each, value_at(run, each.key)))

    def _own(self, each: Dimension, value: Any) -> Any:
        """What the dimension says for `value`, of a resolved run: `adamw` for all of that section's defaults."""
        value = each.spelled(value)
        if isinstance(each.domain, Range) or each.domain.holds(value):
            return value
        for option in each.domain.options:
            with suppress(RunError):
                if value_at(self.run({each.key: option}), each.key) == value:
                    return option
        return value

    def _below(self, values: Values, rest: Sequence[Dimension]) -> Iterator[Values]:
        if not rest:
            yield dict(values)
            return
        first, *others = rest
        if not _holds(first, values):
            yield from self._below(values, others)
            return
        for value in first.domain.values():
            yield from self._below({**values, first.key: value}, others)

    def _value_problems(self) -> list[Problem]:
        """What the run says of each end of each range and of each choice, one at a time."""
        problems: dict[Problem, None] = {}
        by_key = {each.key: each for each in self.dimensions}
        for each in self.dimensions:
            above = _needed(each, by_key)
            try:
                self.run(above) if above else None
            except RunError:
                above = {}  # what is wrong there is told there
            for value in each.domain.ends:
                try:
                    self.run({**above, each.key: value})
                except RunError as error:
                    problems |= {_of(problem, each, value): None for problem in error.problems}
        return _without_dependents(list(problems), self.dimensions)

    def _check_whole(self) -> None:
        """Raise for a space of one point, and for points that make no run though each value alone does."""
        if self.size() == 1:
            rule = "has one point: there is nothing to search. Give a setting two values or a range, or train the run."
            raise RunError([Problem("tune.space", rule)])
        random_ = random.Random(7)
        for _ in range(_TRIED):
            values = self.drawn(lambda each: random_value(each, random_))
            try:
                self.run(values)
            except RunError as error:
                point = ", ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
                way_out = "search one of them under a condition: key: domain if other.key=value"
                problems = [Problem(each.key, f"{each.rule} (at {point}; {way_out})") for each in error.problems]
                raise RunError(problems, source="the search space") from None


def _holds(each: Dimension, values: Mapping[str, Any]) -> bool:
    condition = each.condition
    if condition is None:
        return True
    return condition.key in values and Choice(condition.options).holds(values[condition.key])


def value_at(run: Run, key: str) -> Any:
    """What the run has at a dotted key; None where it has nothing."""
    values: Any = run.dump()
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def random_value(each: Dimension, random_: random.Random) -> Any:
    """A value of the dimension, drawn as its domain says."""
    domain = each.domain
    if isinstance(domain, Choice):
        return random_.choice(domain.options)
    if domain.is_log:
        value = math.exp(random_.uniform(math.log(domain.low), math.log(domain.high)))
        return min(max(round(value), domain.low), domain.high) if domain.is_whole else value
    size = domain.size()
    if domain.step is not None and size is not None:
        value = domain.low + random_.randrange(size) * domain.step
        return value if domain.is_whole else round(value, 12)
    return random_.uniform(domain.low, domain.high)


def _lone_problems(dimensions: Sequence[Dimension]) -> list[Problem]:
    """What is wrong with a dimension whatever the run: keys that cannot vary, overlap, or hang on nothing."""
    problems = []
    if not dimensions:
        rule = "is empty: name a setting, as 'train.lr=log(1e-5,1e-2)', or write tune.space in the run file."
        problems.append(Problem("tune.space", rule))
    by_key = {each.key: each for each in dimensions}
    for each in dimensions:
        reason = why_not(each.key)
        if reason:
            problems.append(Problem(each.key, f"cannot be searched: it {reason}."))
        under = next((key for key in by_key if each.key.startswith(f"{key}.")), None)
        if under and isinstance(by_key[under].domain, Range):
            problems.append(Problem(each.key, f"lies under {under}, which is searched as a number."))
        if each.condition:
            problems += _condition_problems(each, by_key)
    return problems


def _condition_problems(each: Dimension, by_key: Mapping[str, Dimension]) -> list[Problem]:
    assert each.condition
    parent = by_key.get(each.condition.key)
    if parent is None:
        guess = closest(each.condition.key, list(by_key))
        hint = (
            f"Did you mean '{guess}'?" if guess and guess != each.key else "Search that one too, or drop the condition."
        )
        return [Problem(each.key, f"exists only under {each.condition.key}, which is not searched. {hint}")]
    if not isinstance(parent.domain, Choice):
        return [Problem(each.key, f"exists only under {parent.key}, which must then be a choice(...).")]
    odd = [option for option in each.condition.options if not parent.domain.holds(option)]
    if odd:
        there = ", ".join(json.dumps(option) for option in parent.domain.options)
        return [Problem(each.key, f"exists only under {parent.key}={json.dumps(odd[0])}, which is no choice: {there}.")]
    seen, above = {each.key}, parent
    while above.condition:
        if above.key in seen:
            return [Problem(each.key, "exists only under itself. Take one of the conditions away.")]
        seen.add(above.key)
        if above.condition.key not in by_key:
            break
        above = by_key[above.condition.key]
    return []


def _needed(each: Dimension, by_key: Mapping[str, Dimension]) -> Values:
    """The choices under which a dimension exists."""
    values: Values = {}
    while each.condition and each.condition.key in by_key:
        values = {each.condition.key: each.condition.options[0], **values}
        each = by_key[each.condition.key]
    return values


def _in_order(dimensions: Sequence[Dimension]) -> tuple[Dimension, ...]:
    by_key = {each.key: each for each in dimensions}

    def depth(each: Dimension) -> tuple[int, int]:
        return len(_needed(each, by_key)), each.key.count(".")  # a whole section is laid before a key within it

    return tuple(sorted(dimensions, key=depth))


def _of(problem: Problem, each: Dimension, value: Any) -> Problem:
    if problem.key == each.key or problem.key.startswith(f"{each.key}."):
        return problem
    return Problem(problem.key, f"{problem.rule} (with {each.key}={json.dumps(value)})")


def _without_dependents(problems: list[Problem], dimensions: Sequence[Dimension]) -> list[Problem]:
    """Problems of a value that another dimension mends in every point are found again, if they are any, in points."""
    keys = {each.key for each in dimensions}
    lone = [problem for problem in problems if " (with " not in problem.rule]
    rest = [problem for problem in problems if " (with " in problem.rule and len(keys) == 1]
    return lone + rest


def is_run(space: Space, values: Mapping[str, Any]) -> bool:
    """Whether the values make a run."""
    try:
        space.run(values)
    except RunError:
        return False
    return True
