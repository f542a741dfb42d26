"""A checkpoint's golden requests, answered again: a model that answers otherwise takes no traffic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from heliostat.component import Row


class Replay(NamedTuple):
    """What came of answering the golden requests again."""

    num_requests: int
    """Requests that were answered; 0 for a head that declares no samples."""
    max_difference: float
    """The greatest difference of a number from the one in the checkpoint."""


class Mismatch(NamedTuple):
    """A field of an answer that is not what the checkpoint holds."""

    field: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        return f"{self.field}: {_short(self.found)} where the checkpoint holds {_short(self.expected)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def compare(expected: Any, found: Any, tolerance: float, field: str = "") -> tuple[float, Mismatch | None]:
    """The greatest difference between numbers, and the first field that differs beyond `tolerance` (labels: at all)."""
    if isinstance(expected, float) or isinstance(found, float):
        return _compare_numbers(expected, found, tolerance, field)
    pairs: Sequence[tuple[str, Any, Any]]
    if isinstance(expected, Mapping) and isinstance(found, Mapping) and set(expected) == set(found):
        pairs = [(str(key), expected[key], found[key]) for key in expected]
    elif isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)) and len(expected) == len(found):
        pairs = [(str(place), *pair) for place, pair in enumerate(zip(expected, found, strict=True))]
    else:
        return 0.0, None if expected == found else Mismatch(field, expected, found)
    worst = 0.0
    for key, one, other in pairs:
        difference, mismatch = compare(one, other, tolerance, f"{field}.{key}" if field else key)
        worst = max(worst, difference)
        if mismatch:
            return worst, mismatch
    return worst, None


def _compare_numbers(expected: Any, found: Any, tolerance: float, field: str) -> tuple[float, Mismatch | None]:
    if not all(isinstance(each, (int, float)) and math.isfinite(each) for each in (expected, found)):
        return 0.0, Mismatch(field, expected, found)
    difference = abs(float(expected) - float(found))
    return difference, None if difference <= tolerance else Mismatch(field, expected, found)


def first_mismatch(
    golden: Sequence[tuple[Row, Row]], answers: Sequence[Row], tolerance: float
) -> tuple[Replay, int, Mismatch | None]:
    """Compare each answer with the golden one: what came of it, and the place and field of the first that differs."""
    worst = 0.0
    for place, ((_, expected), found) in enumerate(zip(golden, answers, strict=True)):
        difference, mismatch = compare(expected, found, tolerance)
        if mismatch and _is_tie(expected, mismatch, tolerance):
            difference, mismatch = compare({**expected, mismatch.field: mismatch.found}, found, tolerance)
        worst = max(worst, difference)
        if mismatch:
            return Replay(len(answers), worst), place, mismatch
    return Replay(len(answers), worst), -1, None


def _is_tie(expected: Row, mismatch: Mismatch, tolerance: float) -> bool:
    """Whether two labels differ that were as good as equally probable: another precision may turn those round."""
    probabilities = expected.get("probabilities")
    if not isinstance(probabilities, Mapping) or expected.get(mismatch.field) != mismatch.expected:
        return False
    one, other = (probabilities.get(label) for label in (mismatch.expected, mismatch.found))
    return one is not None and other is not None and abs(one - other) <= tolerance
