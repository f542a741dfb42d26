"""Scores of a risk, over the table of predictions.

Each comes from scikit-learn for one table, and in a vectorised form for bootstrap resamples, as in
`classification_metrics`; a test holds the two equal. Columns read: `target_label`, `probability_<event>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from heliostat.heads.classification_metrics import area
from heliostat.plugin import Metric

if TYPE_CHECKING:
    import pandas as pd

Values = npt.NDArray[np.float64]

BINS = 15
"""Bins of equal width over the risk, as in Guo et al. 2017."""


def risk_metrics(labels: Sequence[str], cost_of_miss: float, cost_of_alarm: float) -> dict[str, Metric]:
    """AUC, average precision, KS, Brier error, calibration error and cost; the event is the second label."""
    event = labels[1]
    return {
        "auc": RiskAuc(event),
        "average_precision": AveragePrecision(event),
        "ks": KolmogorovSmirnov(event),
        "brier_error": Brier(event),
        "calibration_error": RiskCalibration(event),
        "cost_error": Cost(event, cost_of_miss, cost_of_alarm),
    }


def scores_of_histograms(events: Values, others: Values) -> dict[str, float]:
    """AUC, average precision and KS where scores are known to the bin; 0 where they are undefined."""
    if not events.sum() or not others.sum():
        return {"auc": 0.0, "average_precision": 0.0, "ks": 0.0}
    hits, misses = np.cumsum(events[::-1]), np.cumsum(others[::-1])
    filled = hits + misses > 0
    recall, fallout = hits / hits[-1], misses / misses[-1]
    precision = hits[filled] / (hits + misses)[filled]
    steps = np.diff(recall[filled], prepend=0.0)
    auc = np.trapezoid(np.concatenate(([0.0], recall)), np.concatenate(([0.0], fallout)))
    return {
        "auc": float(auc),
        "average_precision": float((steps * precision).sum()),
        "ks": float((recall - fallout).max()),
    }


class Ranked(NamedTuple):
    """Rows of each resample, highest risk first, equal risks together: [resamples, groups]."""

    hits: Values
    """Events so far."""
    misses: Values
    """Others so far."""


class _RiskMetric:
    """What the scores of a risk read."""

    def __init__(self, event: str) -> None:
        self.event = event

    def read(self, table: pd.DataFrame) -> tuple[npt.NDArray[np.bool_], Values]:
        """Whether each row is an event, and its risk: [rows] each."""
        events = table["target_label"].to_numpy(dtype=object) == self.event
        return events, table[f"probability_{self.event}"].to_numpy(dtype=np.float64)

    def both(self, table: pd.DataFrame) -> tuple[npt.NDArray[np.bool_], Values]:
        """The same. Raises ValueError where there are only events or none, which leaves a ranking undefined."""
        events, risks = self.read(table)
        if events.all() or not events.any():
            raise ValueError("a ranking needs events and others.")
        return events, risks

    def ranked(self, table: pd.DataFrame, counts: Values) -> Ranked:
        """How many events and others stand at or above each risk."""
        events, risks = self.read(table)
        order = np.argsort(-risks, kind="stable")
        starts = np.flatnonzero(np.diff(-risks[order], prepend=-np.inf))
        drawn = counts[:, order]
        of_events = np.add.reduceat(drawn * events[order], starts, axis=1)
        of_all = np.add.reduceat(drawn, starts, axis=1)
        hits = np.cumsum(of_events, axis=1)
        return Ranked(hits, np.cumsum(of_all, axis=1) - hits)


def _ratio(part: Values, whole: Values) -> Values:
    undefined = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    ratio: Values = np.divide(part, whole, out=undefined, where=whole > 0)
    return ratio


class RiskAuc(_RiskMetric):
    """The share of pairs of an event and another row in which the event has the higher risk; ties count half."""

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(*self.both(table)))

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample; `counts` says how often each holds each row: [resamples, rows]."""
        events, risks = self.read(table)
        return area(events, risks, counts)


class AveragePrecision(_RiskMetric):
    """The mean precision over the events, each at its own risk."""

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        from sklearn.metrics import average_precision_score

        return float(average_precision_score(*self.both(table)))

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample: [resamples]."""
        hits, misses = self.ranked(table, counts)
        precision = np.nan_to_num(_ratio(hits, hits + misses))
        return _ratio((np.diff(hits, axis=1, prepend=0.0) * precision).sum(1), hits[:, -1])


class KolmogorovSmirnov(_RiskMetric):
    """The greatest gap between the shares of events and of others that stand above a risk."""

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        from sklearn.metrics import roc_curve

        fallout, recall, _ = roc_curve(*self.both(table))
        return float((recall - fallout).max())

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample: [resamples]."""
        hits, misses = self.ranked(table, counts)
        gaps = _ratio(hits, hits[:, -1:]) - _ratio(misses, misses[:, -1:])
        return np.maximum(gaps.max(1), 0.0)  # type: ignore[no-any-return]


class Brier(_RiskMetric):
    """The mean squared distance of the risk from what happened, 1 or 0 (Brier 1950)."""

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        from sklearn.metrics import brier_score_loss

        return float(brier_score_loss(*self.read(table), labels=[False, True]))

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample: [resamples]."""
        events, risks = self.read(table)
        return _ratio(counts @ (risks - events) ** 2, counts.sum(1))


class RiskCalibration(_RiskMetric):
    """The expected calibration error: over bins of risk, sum of (rows / all rows) * |share of events - mean risk|."""

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        return float(self.resampled(table, np.ones((1, len(table))))[0])

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample: [resamples]."""
        events, risks = self.read(table)
        inside = (bin_of(risks)[:, None] == np.arange(BINS)).astype(np.float64)  # [rows, bins]
        gaps = np.abs(counts @ (inside * (events - risks)[:, None]))  # [resamples, bins]
        return _ratio(gaps.sum(1), counts.sum(1))


class Cost(_RiskMetric):
    """The mean cost of a record whose event was missed, or which was taken for an event in vain."""

    def __init__(self, event: str, cost_of_miss: float, cost_of_alarm: float) -> None:
        super().__init__(event)
        self.cost_of_miss, self.cost_of_alarm = cost_of_miss, cost_of_alarm

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        return float(self.costs(table).mean())

    def costs(self, table: pd.DataFrame) -> Values:
        """What each row costs, acted upon where its risk is above the threshold that the costs give: [rows]."""
        events, risks = self.read(table)
        acts = risks > self.cost_of_alarm / (self.cost_of_alarm + self.cost_of_miss)
        return np.where(events & ~acts, self.cost_of_miss, np.where(~events & acts, self.cost_of_alarm, 0.0))

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample: [resamples]."""
        return _ratio(counts @ self.costs(table), counts.sum(1))


def bin_of(risks: Values) -> npt.NDArray[np.int64]:
    """The bin of each risk: [rows]."""
    return np.clip(np.ceil(risks * BINS).astype(np.int64) - 1, 0, BINS - 1)
