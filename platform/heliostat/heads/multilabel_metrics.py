"""Scores of a multi-label classification, over the columns `target_labels` and `labels`, each row a list of labels.

Each is a function of weighted rows, so that one table is a resample that holds each row once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from heliostat.plugin import Metric

if TYPE_CHECKING:
    import pandas as pd

Values = npt.NDArray[np.float64]
Score = Callable[[Values, Values, Values], Values]
"""(targets [rows, labels], given [rows, labels], counts [resamples, rows]) -> [resamples]."""


def multilabel_metrics(labels: Sequence[str]) -> dict[str, Metric]:
    """Micro-F1, macro-F1, exact match, the share of wrong label decisions, then the F1 of each label."""
    overall: dict[str, Metric] = {
        "micro_f1": OverLabels(labels, micro_f1),
        "macro_f1": OverLabels(labels, macro_f1),
        "exact_match": OverLabels(labels, exact_match),
        "hamming_error": OverLabels(labels, hamming_error),
    }
    each: dict[str, Metric] = {f"f1_{label}": OverLabels((label,), micro_f1) for label in labels}
    return {**overall, **each}


class OverLabels:
    """A score over which of `labels` each row has, and which it was given."""

    def __init__(self, labels: Sequence[str], score: Score) -> None:
        self.labels, self.score = tuple(labels), score

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        return float(self.resampled(table, np.ones((1, len(table))))[0])

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample; `counts` says how often each holds each row: [resamples, rows]."""
        return self.score(self._held(table, "target_labels"), self._held(table, "labels"), counts)

    def _held(self, table: pd.DataFrame, column: str) -> Values:
        rows = [[label in held for label in self.labels] for held in table[column]]
        return np.array(rows, dtype=np.float64).reshape(len(table), len(self.labels))


def _f1(targets: Values, given: Values, counts: Values) -> tuple[Values, Values]:
    """Twice the hits, and what they are divided by, for each label: [resamples, labels] each."""
    return 2 * (counts @ (targets * given)), counts @ (targets + given)


def _ratio(part: Values, whole: Values) -> Values:
    """part / whole, and NaN where the whole is 0."""
    ratio: Values = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio


def micro_f1(targets: Values, given: Values, counts: Values) -> Values:
    """F1 over all decisions, one for each row and label. Undefined where no row has or is given a label."""
    hits, whole = _f1(targets, given, counts)
    return _ratio(hits.sum(1), whole.sum(1))


def macro_f1(targets: Values, given: Values, counts: Values) -> Values:
    """The mean F1 of the labels that occur or are given."""
    f1 = _ratio(*_f1(targets, given, counts))
    there = np.isfinite(f1)
    return _ratio(np.where(there, f1, 0.0).sum(1), there.sum(1).astype(np.float64))


def exact_match(targets: Values, given: Values, counts: Values) -> Values:
    """The share of rows that are given just the labels they have."""
    return _ratio(counts @ (targets == given).all(1).astype(np.float64), counts.sum(1))


def hamming_error(targets: Values, given: Values, counts: Values) -> Values:
    """The share of decisions, one for each row and label, that are wrong."""
    return _ratio(counts @ (targets != given).mean(1), counts.sum(1))
