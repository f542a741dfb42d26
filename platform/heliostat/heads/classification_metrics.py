"""Scores of a classification, over the table of predictions.

Each comes from scikit-learn for one table, and in a vectorised form for bootstrap resamples: a resample is how often
each row was drawn, so sums over the rows of all resamples are one matrix product. A test holds the two equal.

Columns read: `target_label`, `label`, `probability_<class>`. A score that the rows leave undefined is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from heliostat.plugin import Metric

if TYPE_CHECKING:
    import pandas as pd

Values = npt.NDArray[np.float64]

CALIBRATION_BINS = 15
"""Bins of equal width over the confidence, as in Guo et al. 2017."""


def classification_metrics(labels: Sequence[str]) -> dict[str, Metric]:
    """Accuracy, macro-F1, AUC, calibration error, then precision and recall of each class."""
    overall: dict[str, Metric] = {
        "accuracy": Accuracy(),
        "macro_f1": MacroF1(labels),
        "auc": Auc(labels),
        "calibration_error": CalibrationError(labels),
    }
    precision: dict[str, Metric] = {f"precision_{label}": Precision(label) for label in labels}
    recall: dict[str, Metric] = {f"recall_{label}": Recall(label) for label in labels}
    return {**overall, **precision, **recall}


def _ratio(part: Values, whole: Values) -> Values:
    """part / whole, and NaN where the whole is 0."""
    undefined = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    ratio: Values = np.divide(part, whole, out=undefined, where=whole > 0)
    return ratio


def _column(table: pd.DataFrame, name: str) -> npt.NDArray[np.object_]:
    return table[name].to_numpy(dtype=object)


class Accuracy:
    """The share of rows whose label is the target."""

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        from sklearn.metrics import accuracy_score

        return float(accuracy_score(_column(table, "target_label"), _column(table, "label")))

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample; `counts` says how often each holds each row: [resamples, rows]."""
        hits = (_column(table, "target_label") == _column(table, "label")).astype(np.float64)
        return _ratio(counts @ hits, counts.sum(1))


class MacroF1:
    """The mean F1 of the classes that occur or are predicted."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = np.array(labels, dtype=object)

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        from sklearn.metrics import f1_score

        return float(
            f1_score(_column(table, "target_label"), _column(table, "label"), average="macro", zero_division=0)
        )

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample: [resamples]."""
        targets = (_column(table, "target_label")[:, None] == self.labels).astype(np.float64)  # [rows, classes]
        predicted = (_column(table, "label")[:, None] == self.labels).astype(np.float64)
        f1 = _ratio(2 * (counts @ (targets * predicted)), counts @ (targets + predicted))
        there = np.isfinite(f1)
        return _ratio(np.where(there, f1, 0.0).sum(1), there.sum(1).astype(np.float64))


class Precision:
    """Of the rows that are given the class, the share that belongs to it. Undefined when none is given it."""

    def __init__(self, label: str) -> None:
        self.label = label

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        from sklearn.metrics import precision_score

        targets, predicted = _column(table, "target_label") == self.label, _column(table, "label") == self.label
        return float(precision_score(targets, predicted, zero_division=np.nan))

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample: [resamples]."""
        targets, predicted = _column(table, "target_label") == self.label, _column(table, "label") == self.label
        return _ratio(counts @ (targets & predicted).astype(np.float64), counts @ predicted.astype(np.float64))


class Recall:
    """Of the rows that belong to the class, the share that is given it. Undefined when none belongs to it."""

    def __init__(self, label: str) -> None:
        self.label = label

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        from sklearn.metrics import recall_score

        targets, predicted = _column(table, "target_label") == self.label, _column(table, "label") == self.label
        return float(recall_score(targets, predicted, zero_division=np.nan))

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample: [resamples]."""
        targets, predicted = _column(table, "target_label") == self.label, _column(table, "label") == self.label
        return _ratio(counts @ (targets & predicted).astype(np.float64), counts @ targets.astype(np.float64))


class Auc:
    """The mean over classes of the area under the ROC curve of that class against the rest.

    Undefined as soon as one class does not occur, or is the only one. With two classes it is the usual AUC.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        from sklearn.metrics import roc_auc_score

        targets = _column(table, "target_label")
        hits = [targets == label for label in self.labels]
        if any(hit.all() or not hit.any() for hit in hits):
            return float("nan")
        areas = [
            roc_auc_score(hit, table[f"probability_{label}"]) for hit, label in zip(hits, self.labels, strict=True)
        ]
        return float(np.mean(areas))

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample: [resamples]."""
        targets = _column(table, "target_label")
        areas = [
            area(targets == label, table[f"probability_{label}"].to_numpy(dtype=np.float64), counts)
            for label in self.labels
        ]
        return np.mean(areas, axis=0)  # type: ignore[no-any-return]


def area(hits: npt.NDArray[np.bool_], scores: Values, counts: Values) -> Values:
    """The area under the ROC curve of each resample: the share of (hit, miss) pairs in right order, ties counting half.

    The form of Mann and Whitney (1947) with the rows weighted by `counts` ([resamples, rows]): [resamples].
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # where each run of equal scores begins
    drawn = counts[:, order]
    positive = np.add.reduceat(drawn * hits[order], starts, axis=1)
    negative = np.add.reduceat(drawn * ~hits[order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(1) * negative.sum(1)
    return _ratio((positive * (below + negative / 2)).sum(1), pairs)


class CalibrationError:
    """The expected calibration error: over bins of confidence, sum of (rows / all rows) * |accuracy - mean confidence|.

    Confidence is the highest probability of a row (Naeini, Cooper and Hauskrecht 2015; 15 bins as in Guo et al. 2017).
    """

    def __init__(self, labels: Sequence[str], bins: int = CALIBRATION_BINS) -> None:
        self.labels, self.bins = tuple(labels), bins

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        return float(self.resampled(table, np.ones((1, len(table))))[0])

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample: [resamples]."""
        confidence, hits, bins = reliability(table, self.labels, self.bins)
        inside = (bins[:, None] == np.arange(self.bins)).astype(np.float64)  # [rows, bins]
        gaps = np.abs(counts @ (inside * (hits - confidence)[:, None]))  # [resamples, bins]
        return _ratio(gaps.sum(1), counts.sum(1))


def reliability(
    table: pd.DataFrame, labels: Sequence[str], bins: int = CALIBRATION_BINS
) -> tuple[Values, Values, npt.NDArray[np.int64]]:
    """For each row its confidence, whether its label is right (1 or 0), and the bin of its confidence: [rows] each."""
    probabilities = table[[f"probability_{label}" for label in labels]].to_numpy(dtype=np.float64)
    confidence = probabilities.max(1)
    hits = (_column(table, "target_label") == _column(table, "label")).astype(np.float64)
    places = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return confidence, hits, places
