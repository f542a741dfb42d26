"""How often the target was so for each value of a category, without telling an example its own target.

The rate of a level is smoothed towards that of all (Micci-Barreca 2001). In training an example reads the rates of the
other folds, to which it does not belong, else the network would read its target off a rare level; asked later, it
reads the rates of all. The fold of an example is a hash of what it holds, so no list of the train examples is kept.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.component import Row
from heliostat.errors import DataError

Floats = npt.NDArray[np.float64]

FOLDS = 5
_MOST_CLASSES = 12
_LEAST_SHARE = 1e-4


def fold_of(values: Sequence[Any]) -> int:
    """The fold of an example, by the values of its fields."""
    return zlib.crc32(repr(values).encode("utf-8", "replace")) % FOLDS


@dataclass
class Target:
    """The target as numbers: the second of two classes as 1, more classes as one number each, a number as itself."""

    name: str
    classes: tuple[str, ...] | None = None
    """None: the target is a number."""

    @classmethod
    def of(cls, name: str, values: Sequence[Any]) -> Target:
        """What the train targets are. Raises DataError for none, or for more classes than rates are kept of."""
        if not values or any(value is None or isinstance(value, (list, dict)) for value in values):
            raise DataError(f"encoder.rates reads the target '{name}', and a train example has none that is one value.")
        if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
            return cls(name)
        classes = tuple(sorted({str(value) for value in values}))
        if len(classes) > _MOST_CLASSES:
            found = f"'{name}' has {len(classes)} classes"
            raise DataError(
                f"encoder.rates are kept of up to {_MOST_CLASSES} classes; {found}. Leave encoder.rates out."
            )
        return cls(name, classes)

    @property
    def width(self) -> int:
        """Numbers that stand for one target."""
        return 1 if self.classes is None or len(self.classes) <= 2 else len(self.classes)

    def numbers(self, values: Sequence[Any]) -> Floats:
        """[examples, width]."""
        if self.classes is None:
            return np.array(values, dtype=np.float64)[:, None]
        kept = self.classes[1:2] if len(self.classes) == 2 else self.classes
        return np.array([[str(value) == name for name in kept] for value in values], dtype=np.float64)


@dataclass
class Rates:
    """The smoothed rates of one category, whole and for each fold left out."""

    target: Target
    prior: Floats  # [width]
    smoothing: float
    sums: dict[str, list[list[float]]] = field(default_factory=dict)
    """For each level and fold: how many examples, and the sums of their target numbers, [folds][1 + width]."""
    _read: dict[tuple[str | None, int], tuple[list[float], list[float]]] = field(
        default_factory=dict, repr=False, compare=False
    )
    """What was read before: the same few thousand values come again and again."""

    @classmethod
    def fit(
        cls, target: Target, numbers: Floats, levels: Sequence[str | None], folds: Sequence[int], smoothing: float
    ) -> Rates:
        """Count the train examples. `numbers`: [examples, width]."""
        found = cls(target, numbers.mean(0), smoothing)
        for level, fold, row in zip(levels, folds, numbers.tolist(), strict=True):
            if level is not None:
                counts = found.sums.setdefault(level, [[0.0] * (1 + target.width) for _ in range(FOLDS)])[fold]
                counts[0] += 1.0
                for place, value in enumerate(row, start=1):
                    counts[place] += value
        found.sums = {level: counts for level, counts in found.sums.items() if sum(fold[0] for fold in counts) > 1}
        return found

    def read(self, level: str | None, fold: int) -> tuple[list[float], list[float]]:
        """The rates for a level, from all folds and from all but one, each followed by the log of its count."""
        known = self._read.get((level, fold))
        if known is None:
            known = self._read_anew(level, fold)
            if level is None or level in self.sums:  # what is unseen has no end
                self._read[(level, fold)] = known
        return known

    def _read_anew(self, level: str | None, fold: int) -> tuple[list[float], list[float]]:
        if level is None:
            nothing = [math.nan] * (self.target.width + 1)
            return nothing, nothing
        counts = self.sums.get(level)
        if counts is None:
            unseen = self._rates([0.0] * (1 + self.target.width))
            return unseen, unseen
        whole = [sum(column) for column in zip(*counts, strict=True)]
        return self._rates(whole), self._rates([a - b for a, b in zip(whole, counts[fold], strict=True)])

    def _rates(self, counts: Sequence[float]) -> list[float]:
        count = max(0.0, counts[0])
        rates = [
            (total + self.smoothing * prior) / (count + self.smoothing)
            for total, prior in zip(counts[1:], self.prior.tolist(), strict=True)
        ]
        return [*(map(_log_odds, rates) if self.target.classes else rates), math.log1p(count)]

    def values(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"prior": self.prior.tolist(), "smoothing": self.smoothing, "sums": self.sums}

    @classmethod
    def from_values(cls, target: Target, values: Mapping[str, Any]) -> Rates:
        """What `values` gave."""
        return cls(target, np.array(values["prior"]), values["smoothing"], values["sums"])


def _log_odds(share: float) -> float:
    share = min(max(share, _LEAST_SHARE), 1.0 - _LEAST_SHARE)
    return math.log(share / (1.0 - share))


def fold_values(row: Row, fields: Sequence[str]) -> list[Any]:
    """What an example's fold depends on: the same before and after a trip through JSON."""
    values = (row.get(name) for name in fields)
    return [value if isinstance(value, (str, int, float, bool, type(None))) else str(value) for value in values]
