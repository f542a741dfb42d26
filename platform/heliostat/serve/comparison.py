"""What two versions of a model answered to the same requests: whether they agree, how far apart, how fast."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from heliostat.component import Row

KEPT = 5000
"""Latencies and differences that are kept to tell medians from; the newest ones."""


@dataclass
class Tally:
    """Counts of two versions beside each other; tallies of several replicas add up."""

    answered: int = 0
    """Requests that the other version answered."""
    failed: int = 0
    """Requests that it did not answer; this version did."""
    left_out: int = 0
    """Requests that were not copied to it, as it had enough to do."""
    records: int = 0
    """Records that both answered."""
    agreed: int = 0
    """Those of them in which all that is no number is equal: labels, texts, lists."""
    apart: dict[str, int] = field(default_factory=dict)
    """By field, in how many records it differs, numbers in it aside."""
    differences: list[float] = field(default_factory=list)
    """The greatest difference between two numbers, a record."""
    own_ms: list[float] = field(default_factory=list)
    other_ms: list[float] = field(default_factory=list)

    def compared(self, own: Sequence[Row], other: Sequence[Row]) -> Self:
        """With the answers of both to the same records."""
        for mine, theirs in zip(own, other, strict=True):
            found = {name: _apart(mine.get(name), theirs.get(name)) for name in {**mine, **theirs}}
            self.records += 1
            self.differences.append(max((difference for difference, _ in found.values()), default=0.0))
            differing = [name for name, (_, is_equal) in found.items() if not is_equal]
            self.agreed += not differing
            for name in differing:
                self.apart[name] = self.apart.get(name, 0) + 1
        return self

    def add(self, other: Tally) -> None:
        """With what another one counted."""
        for name in ("answered", "failed", "left_out", "records", "agreed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for key, count in other.apart.items():
            self.apart[key] = self.apart.get(key, 0) + count
        for name in ("differences", "own_ms", "other_ms"):
            setattr(self, name, [*getattr(self, name), *getattr(other, name)][-KEPT:])

    def dump(self) -> dict[str, Any]:
        """Plain values that travel; `Tally(**values)` reads them."""
        return asdict(self)

    def report(self) -> dict[str, Any]:
        """What a person wants to know."""
        return {
            "answered": self.answered,
            "failed": self.failed,
            "left_out": self.left_out,
            "records": self.records,
            "agreement": self.agreed / self.records if self.records else None,
            "differing_fields": dict(sorted(self.apart.items(), key=lambda item: -item[1])),
            "difference": _spread(self.differences),
            "latency_ms": {"own": _spread(self.own_ms), "other": _spread(self.other_ms)},
        }


def _apart(one: Any, other: Any) -> tuple[float, bool]:
    """The greatest difference between two numbers in the same place, and whether all else is equal."""
    if isinstance(one, float) or isinstance(other, float):
        if not all(isinstance(each, (int, float)) and math.isfinite(each) for each in (one, other)):
            return 0.0, one == other
        return abs(float(one) - float(other)), True
    if isinstance(one, Mapping) and isinstance(other, Mapping) and set(one) == set(other):
        pairs = [(one[key], other[key]) for key in one]
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        pairs = list(zip(one, other, strict=True))
    else:
        return 0.0, bool(one == other)
    found = [_apart(*pair) for pair in pairs]
    return max((difference for difference, _ in found), default=0.0), all(is_equal for _, is_equal in found)


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered), 6),
        "p95": round(ordered[min(len(ordered) - 1, math.ceil(0.95 * len(ordered)) - 1)], 6),
        "max": round(ordered[-1], 6),
    }
