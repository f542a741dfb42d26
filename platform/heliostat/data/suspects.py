"""Fields that alone predict the target too well: most often they were written down after the fact.

Each field by itself is scored on one half of the train examples by what the other half shows: the mean target of each
of its values, or of each quantile of a number, a gap being a value too. A field that so reaches an AUC of .9 (or an R2
of .9, where the target is a number) is named; who knows the data must then say whether it is known in time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from heliostat.component import Row
from heliostat.plugin import TaskHead

SUSPICIOUS = 0.9
"""AUC, or R2, from which a field that stands alone is named."""

_MOST_ROWS = 40_000
"""Train examples that are read: enough to tell .9 from .85."""
_MOST_CLASSES = 20
_LEAST_OF_CLASS = 20
_QUANTILES = 100
_SMOOTHING = 1.0

T = TypeVar("T")
Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


class Suspect(NamedTuple):
    """A field that alone predicts the target too well."""

    field: str
    score: float
    measure: str
    """`AUC of <class>`, or `R2`."""


def suspects(rows: Iterable[Row], head: TaskHead) -> list[Suspect]:
    """The suspicious fields of train examples, the worst first; none where the target is no class and no number.

    `rows` are read only where there is one target; of many train examples `enough` are.
    """
    name = head.target_fields[0] if len(head.target_fields) == 1 else None
    kept = list(rows) if name is not None else []
    if name is None or len(kept) < 4 * _LEAST_OF_CLASS:
        return []
    targets = _targets([row.get(name) for row in kept])
    found: list[Suspect] = []
    for field in type(head).takes.model_fields:
        places = _places([row.get(field) for row in kept])
        if places is None or not targets:
            continue
        scores = {measure: _score(places, values, measure) for measure, values in targets.items()}
        measure = max(scores, key=scores.__getitem__)
        if scores[measure] >= SUSPICIOUS:
            found.append(Suspect(field, round(scores[measure], 4), measure))
    return sorted(found, key=lambda each: -each.score)


def enough(examples: Iterable[T], count: int) -> Iterator[T]:
    """As many of `count` examples as are needed, evenly over all of them."""
    return islice(examples, 0, None, max(1, -(-count // _MOST_ROWS)))


def _targets(values: Sequence[Any]) -> dict[str, Floats]:
    """What is to be predicted, as numbers by the name of their measure: each class that is not rare, or the number."""
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        numbers = np.array(values, dtype=np.float64)
        return {"R2": numbers} if float(numbers.std()) > 0 else {}
    if not all(isinstance(value, (str, bool)) for value in values):
        return {}
    labels = np.array([str(value) for value in values])
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) > _MOST_CLASSES:
        return {}
    both = len(classes) == 2  # the AUC of one is that of the other
    kept = [each for each, count in zip(classes, counts, strict=True) if count >= _LEAST_OF_CLASS][both:]
    return {f"AUC of {each}": (labels == each).astype(np.float64) for each in kept} if len(classes) > 1 else {}


def _places(values: Sequence[Any]) -> Places | None:
    """A number for the value of each row, 0 for a gap; None for fields that hold no plain values, or all the same."""
    known = [value for value in values if value is not None]
    if any(isinstance(value, (list, dict)) for value in known):
        return None
    if known and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known):
        numbers = np.array([np.nan if value is None else float(value) for value in values])
        distinct = np.unique(numbers[~np.isnan(numbers)])
        if len(distinct) > _QUANTILES:
            edges = np.unique(np.quantile(numbers[~np.isnan(numbers)], np.linspace(0, 1, _QUANTILES + 1)[1:-1]))
            places = np.searchsorted(edges, numbers, side="right") + 1
        else:
            places = np.searchsorted(distinct, numbers) + 1
        found: Places = np.where(np.isnan(numbers), 0, places).astype(np.int64)
    else:
        index: dict[str, int] = {}
        found = np.array(
            [0 if value is None else index.setdefault(str(value), len(index) + 1) for value in values], dtype=np.int64
        )
    return found if len(np.unique(found)) > 1 else None


def _score(places: Places, targets: Floats, measure: str) -> float:
    """What each half of the rows says of the other."""
    half = np.arange(len(places)) % 2 == 0
    guesses = np.empty(len(places))
    for learn in (half, ~half):
        guesses[~learn] = _means(places[learn], targets[learn], int(places.max()) + 1)[places[~learn]]
    if measure == "R2":
        return float(1.0 - ((targets - guesses) ** 2).sum() / ((targets - targets.mean()) ** 2).sum())
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(targets, guesses))


def _means(places: Places, targets: Floats, size: int) -> Floats:
    """The mean target at each place, rare ones drawn to that of all."""
    counts = np.bincount(places, minlength=size)
    sums = np.bincount(places, targets, size)
    means: Floats = (sums + _SMOOTHING * targets.mean()) / (counts + _SMOOTHING)
    return means
