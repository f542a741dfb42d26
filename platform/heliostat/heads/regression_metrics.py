"""Scores of a regression, over the columns `target_value` and `value` of the table of predictions.

Each in one table, and in a vectorised form for bootstrap resamples: a resample is how often each row was drawn, so sums
over the rows of all resamples are one matrix product. A score that the rows leave undefined is NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from heliostat.plugin import Metric

if TYPE_CHECKING:
    import pandas as pd

Values = npt.NDArray[np.float64]


def regression_metrics() -> dict[str, Metric]:
    """The errors (smaller is better) and the two measures of agreement (1 at best)."""
    return {
        "root_mean_squared_error": RootMeanSquaredError(),
        "mean_absolute_error": MeanAbsoluteError(),
        "r2": R2(),
        "spearman": Spearman(),
    }


def _columns(table: pd.DataFrame) -> tuple[Values, Values]:
    """Targets and predictions: [rows] each."""
    return table["target_value"].to_numpy(dtype=np.float64), table["value"].to_numpy(dtype=np.float64)


def _ratio(part: Values, whole: Values) -> Values:
    """part / whole, and NaN where the whole is 0."""
    undefined = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    ratio: Values = np.divide(part, whole, out=undefined, where=whole > 0)
    return ratio


class MeanAbsoluteError:
    """The mean distance from the target, in its own unit."""

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        from sklearn.metrics import mean_absolute_error

        return float(mean_absolute_error(*_columns(table)))

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample; `counts` says how often each holds each row: [resamples, rows]."""
        targets, values = _columns(table)
        return _ratio(counts @ np.abs(values - targets), counts.sum(1))


class RootMeanSquaredError:
    """The root of the mean squared distance from the target, in its own unit."""

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        from sklearn.metrics import root_mean_squared_error

        return float(root_mean_squared_error(*_columns(table)))

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample: [resamples]."""
        targets, values = _columns(table)
        return np.sqrt(_ratio(counts @ (values - targets) ** 2, counts.sum(1)))  # type: ignore[no-any-return]


class R2:
    """The share of the targets' variance that the predictions explain. Undefined where all targets are equal."""

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        from sklearn.metrics import r2_score

        targets, values = _columns(table)
        return float(r2_score(targets, values)) if np.ptp(targets) > 0 else float("nan")

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample: [resamples]."""
        targets, values = _columns(table)
        centred = targets - targets.mean()  # keeps the difference below from cancelling
        spread = counts @ centred**2 - (counts @ centred) ** 2 / counts.sum(1)
        return 1.0 - _ratio(counts @ (values - targets) ** 2, np.where(spread > 1e-12, spread, 0.0))


class Spearman:
    """Spearman's rank correlation: whether the predictions put the records in the order of the targets."""

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        return float(self.resampled(table, np.ones((1, len(table))))[0])

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample: Pearson's correlation of the ranks there, equal values sharing their mean."""
        ranks = [_ranks(column, counts) for column in _columns(table)]
        totals = counts.sum(1, keepdims=True)
        one, other = (each - (counts * each).sum(1, keepdims=True) / totals for each in ranks)
        covariance = (counts * one * other).sum(1)
        return _ratio(covariance, np.sqrt((counts * one**2).sum(1) * (counts * other**2).sum(1)))


def _ranks(values: Values, counts: Values) -> Values:
    """The rank of each row within each resample, from the counts of smaller and equal values: [resamples, rows]."""
    order = np.argsort(values, kind="stable")
    is_new = np.diff(values[order], prepend=-np.inf) > 0
    groups = np.cumsum(is_new) - 1  # which run of equal values each place belongs to
    drawn = np.add.reduceat(counts[:, order], np.flatnonzero(is_new), axis=1)
    middle = np.cumsum(drawn, axis=1) - drawn / 2
    ranks = np.empty_like(counts, dtype=np.float64)
    ranks[:, order] = middle[:, groups]
    return ranks
