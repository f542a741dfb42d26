"""How far the evaluated rows have moved from those that were trained on: the population stability index, by field.

PSI = sum over bins of (share here - share in train) * log(share here / share in train), with ten quantiles of the
train split for a number, the most frequent values for a category, and a bin for gaps. By custom below .1 is steady,
above .25 another population. The target counts as a field: its drift is what no model can see.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from heliostat.component import Row
from heliostat.plugin import TaskHead

STEADY, MOVED = 0.1, 0.25

_QUANTILES = 10
_MOST_VALUES = 30
_MOSTLY_DISTINCT = 0.5
"""Share of different values from which a field is free text, whose words no bin holds."""
_LEAST_SHARE = 1e-4
_LEAST_OF_PRIVATE = 20
"""Train rows behind a value that a report of private records may name."""

Shares = npt.NDArray[np.float64]


class Drift(NamedTuple):
    """How far one field has moved."""

    field: str
    psi: float
    most: str
    """The bin that gives the greatest part, with its share in train and here."""
    is_target: bool = False


def drift(train: Sequence[Row], here: Sequence[Row], head: TaskHead) -> list[Drift]:
    """Each field that has bins, those that moved furthest first, targets ahead of all; none for a text task."""
    taken = [name for name in type(head).takes.model_fields if _has_bins(train, name)]
    if not taken or not here:
        return []
    least = _LEAST_OF_PRIVATE if head.private else 1
    found = [_of(train, here, name, is_target=False, least=least) for name in taken]
    targets = [name for name in head.target_fields if _has_bins(train, name)]
    moved = [_of(train, here, name, is_target=True, least=least) for name in targets]
    return [*moved, *sorted(found, key=lambda each: -each.psi)]


def _has_bins(rows: Sequence[Row], name: str) -> bool:
    values = [row.get(name) for row in rows]
    known = [value for value in values if value is not None]
    if not known or any(isinstance(value, (list, dict)) for value in known):
        return False
    return _are_numbers(known) or len(set(known)) <= max(2, _MOSTLY_DISTINCT * len(known))


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _of(train: Sequence[Row], here: Sequence[Row], name: str, *, is_target: bool, least: int) -> Drift:
    """`least`: train rows that a value needs to stand by its name."""
    before, after = [row.get(name) for row in train], [row.get(name) for row in here]
    known = [value for value in before if value is not None]
    if _are_numbers(known) and len(set(known)) > _MOST_VALUES:
        edges = np.unique(np.quantile(np.array(known, dtype=np.float64), np.linspace(0, 1, _QUANTILES + 1)[1:-1]))
        names = _ranges(edges)
        shares = [_number_shares(values, edges) for values in (before, after)]
    else:
        kept = [value for value, count in Counter(map(str, known)).most_common(_MOST_VALUES) if count >= least]
        names = [*kept, "other values", "none"]
        shares = [_value_shares(values, kept) for values in (before, after)]
    old, new = (np.maximum(each, _LEAST_SHARE) for each in shares)
    parts = (new - old) * np.log(new / old)
    most = int(parts.argmax())
    words = f"{names[most]}: {_percent(shares[0][most])} to {_percent(shares[1][most])}"
    return Drift(name, float(parts.sum()), words, is_target)


def _number_shares(values: Sequence[Any], edges: Shares) -> Shares:
    numbers = np.array([math.nan if value is None else float(value) for value in values])
    places = np.where(np.isnan(numbers), len(edges) + 1, np.searchsorted(edges, numbers, side="right"))
    shares: Shares = np.bincount(places, minlength=len(edges) + 2) / max(1, len(values))
    return shares


def _value_shares(values: Sequence[Any], kept: Sequence[str]) -> Shares:
    place = {value: index for index, value in enumerate(kept)}
    places = [len(kept) + 1 if value is None else place.get(str(value), len(kept)) for value in values]
    shares: Shares = np.bincount(np.array(places, dtype=np.int64), minlength=len(kept) + 2) / max(1, len(values))
    return shares


def _ranges(edges: Shares) -> list[str]:
    inner = [f"{low:g} to {high:g}" for low, high in pairwise(edges.tolist())]
    return [f"below {edges[0]:g}", *inner, f"from {edges[-1]:g}", "none"]


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")
