"""What is learned of a table's columns from the train split: quantiles of numbers, values of categories, rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.component import Row
from heliostat.encoders.tabular_rates import Rates, Target, fold_of, fold_values
from heliostat.encoders.tabular_terms import DAYS_PER_YEAR, category_parts, read_category, read_day, read_number
from heliostat.errors import DataError

MISSING, RARE = 0, 1
"""Places that every category has: for a gap, and for a value that is rare or unseen."""

MONTHS, WEEKDAYS = 12, 7


@dataclass
class FittedTable:
    """The scales of a table. Numbers are those of the settings, then the years of dates, then rates with counts."""

    edges: list[list[float]]
    """For each number its quantiles, rising; fewer than two for one that does not vary."""
    levels: list[dict[str, int]]
    """For each category of the settings the place of each frequent value."""
    newest: tuple[int, int]
    """The newest day of any date, and the oldest, as ordinals; 0 without dates."""
    target: Target | None
    rates: list[Rates]

    @staticmethod
    def place(known: Mapping[str, int], value: str | None) -> int:
        """The number that stands for a value."""
        return MISSING if value is None else known.get(value, RARE)

    def values(self) -> dict[str, Any]:
        """As JSON holds it."""
        target = {"name": self.target.name, "classes": self.target.classes} if self.target else None
        return {
            "edges": self.edges,
            "levels": [list(known) for known in self.levels],
            "days": self.newest,
            "target": target,
            "rates": [rates.values() for rates in self.rates],
        }

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> FittedTable:
        """What `values` gave."""
        named = values["target"]
        target = Target(named["name"], tuple(named["classes"]) if named["classes"] else None) if named else None
        rates = [Rates.from_values(target, each) for each in values["rates"]] if target else []
        newest, oldest = values["days"]
        return cls(values["edges"], [_places(known) for known in values["levels"]], (newest, oldest), target, rates)


def _places(values: Iterable[str]) -> dict[str, int]:
    return {value: place for place, value in enumerate(values, start=RARE + 1)}


def fit_table(settings: Any, fields: Sequence[str], examples: Iterable[Row]) -> FittedTable:
    """Learn from the train examples, which are read once."""
    numbers: list[list[float]] = []
    days: list[list[int | None]] = []
    counts = [Counter[str]() for _ in settings.categories]
    rated: list[list[str | None]] = []
    folds: list[int] = []
    targets: list[Any] = []
    categories = [category_parts(term) for term in settings.categories]
    keyed = [category_parts(term) for term in settings.rates]
    for row in examples:
        numbers.append([read_number(term, row) for term in settings.numbers])
        read = [read_day(name, row) for name in settings.dates]
        days.append([day.toordinal() if day else None for day in read])
        for counter, parts in zip(counts, categories, strict=True):
            value = read_category(parts, row)
            if value is not None:
                counter[value] += 1
        if keyed:
            rated.append([read_category(parts, row) for parts in keyed])
            folds.append(fold_of(fold_values(row, fields)))
            targets.append(row.get(settings.target))
    if not numbers:
        raise DataError("a table encoder learns its scales from train examples, and there are none.")
    target, rates = _rates(settings, rated, folds, targets)
    newest = _newest(days)
    years = [[np.nan if day is None else (day - newest[0]) / DAYS_PER_YEAR for day in row] for row in days]
    columns = [*_columns(numbers), *_columns(years), *_columns(_others(rates, rated, folds))]
    levels = [_places(sorted(v for v, n in counter.items() if n >= settings.min_count)) for counter in counts]
    return FittedTable([quantiles(column, settings.bins) for column in columns], levels, newest, target, rates)


def _rates(
    settings: Any, rated: list[list[str | None]], folds: list[int], targets: list[Any]
) -> tuple[Target | None, list[Rates]]:
    if not settings.rates:
        return None, []
    target = Target.of(settings.target, targets)
    numbers = target.numbers(targets)
    columns = zip(*rated, strict=True)
    return target, [Rates.fit(target, numbers, column, folds, settings.smoothing) for column in columns]


def _others(rates: Sequence[Rates], rated: list[list[str | None]], folds: list[int]) -> list[list[float]]:
    """What the network reads of each train example: the rates without its own fold."""
    if not rates:
        return []
    return [
        [number for known, level in zip(rates, levels, strict=True) for number in known.read(level, fold)[1]]
        for levels, fold in zip(rated, folds, strict=True)
    ]


def _newest(days: list[list[int | None]]) -> tuple[int, int]:
    known = [day for row in days for day in row if day is not None]
    return (max(known), min(known)) if known else (0, 0)


def _columns(rows: list[list[float]]) -> list[npt.NDArray[np.float64]]:
    return list(np.array(rows, dtype=np.float64).T) if rows and rows[0] else []


def quantiles(column: npt.NDArray[np.float64], bins: int) -> list[float]:
    """The borders of bins with about equal counts, equal ones taken together; none for a column without values."""
    known = column[np.isfinite(column)]
    if not len(known):
        return []
    return [
        float(edge) for edge in np.unique(np.quantile(np.clip(known, -1e30, 1e30), np.linspace(0.0, 1.0, bins + 1)))
    ]
