"""Confidence intervals by the bootstrap: how far a score would move if other examples had been drawn for the test.

The percentile interval of Efron (1979): rows are drawn with replacement as often as there are rows, the score is
taken of each such resample, and the interval holds the middle 95 % of them. A difference between two models is taken on
the same resamples (paired), so that what is hard for both does not count as noise between them. Rows that a split keeps
together, as the paragraphs of a page, are no draws of their own: whole groups are drawn (Davison and Hinkley 1997, 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from heliostat.plugin import Metric

if TYPE_CHECKING:
    import pandas as pd

Values = npt.NDArray[np.float64]
Groups = npt.NDArray[np.float64]

LEVEL = 0.95
"""The share of the resamples that an interval holds."""

SEED = 20_240_229
"""Fixed, so that the same predictions always give the same interval."""

BLOCK_CELLS = 4_000_000
"""Resamples x rows that are in memory at once: 32 MB."""


class Interval(NamedTuple):
    """A score and the range that holds 95 % of its bootstrap resamples. NaN stands for undefined."""

    value: float
    low: float
    high: float
    left_out: int = 0
    """Resamples on which the score was undefined (as recall of a class that was not drawn)."""

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside: for a difference, whether it is more than chance at this level."""
        return self.low > 0 or self.high < 0


@runtime_checkable
class ResampledMetric(Protocol):
    """A metric that can score many resamples at once, which makes intervals a hundred times faster."""

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        ...

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample, NaN where undefined. `counts`: how often it holds each row, [resamples, rows]."""
        ...


def resamples(rows: int, count: int, seed: int = SEED, groups: Groups | None = None) -> Iterator[Values]:
    """How often each row is drawn in each of `count` resamples, in blocks: [resamples of the block, rows].

    With `groups`, a number of each row, all rows of a group are drawn together.
    """
    if groups is not None:
        numbers, places = np.unique(groups, return_inverse=True)
        for counts in resamples(len(numbers), count, seed):
            yield counts[:, places]
        return
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK_CELLS // max(1, rows))
    for start in range(0, count, block):
        size = min(block, count - start)
        drawn = rng.integers(0, rows, (size, rows)) + np.arange(size)[:, None] * rows
        yield np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows).astype(np.float64)


def score(metric: Metric, table: pd.DataFrame) -> float:
    """The metric of a table, NaN where it is undefined there (which metrics may say by a ValueError)."""
    try:
        return float(metric(table))
    except ValueError:
        return float("nan")


def score_resamples(metric: Metric, table: pd.DataFrame, counts: Values) -> Values:
    """The metric of each resample: [resamples]."""
    if isinstance(metric, ResampledMetric):
        return metric.resampled(table, counts)
    rows = np.arange(len(table))
    drawn = (np.repeat(rows, row.astype(np.int64)) for row in counts)
    return np.array([score(metric, table.iloc[places]) for places in drawn])


def interval(value: float, values: Values) -> Interval:
    """The middle 95 % of `values`, those that are undefined left out."""
    defined = values[np.isfinite(values)]
    left_out = len(values) - len(defined)
    if not len(defined) or not np.isfinite(value):
        return Interval(value, float("nan"), float("nan"), left_out)
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high), left_out)


class Comparison(NamedTuple):
    """The scores of several models on the same rows, by model and metric."""

    scores: dict[str, dict[str, Interval]]
    differences: dict[str, dict[str, Interval]]
    """First model minus each other model, paired."""
    p_values: dict[str, dict[str, float]] = {}  # noqa: RUF012  a NamedTuple's default, never written to
    """Of each difference, by `p_value`."""


def p_value(differences: Values) -> float:
    """How often chance alone would bring a difference as far from 0, two-sided, read from its resamples.

    Twice the smaller share of the resamples that lie on one side of 0, one more counted on that side (Davison and
    Hinkley 1997, 4.2), so that it is never 0. Below .05 exactly where the 95 % interval excludes 0, but for rounding.
    """
    defined = differences[np.isfinite(differences)]
    if not len(defined):
        return float("nan")
    beyond = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(defined) + 1))


def compare(
    tables: Mapping[str, pd.DataFrame],
    metrics: Mapping[str, Metric],
    count: int,
    seed: int = SEED,
    groups: Groups | None = None,
) -> Comparison:
    """Every metric of every model with its interval, and the first model minus each other.

    `tables` holds the same rows in the same order for each model; there must be one or more. `groups` holds a number
    of each row, equal for those that are drawn together.
    """
    first, *others = tables
    points = {
        model: {name: score(metric, table) for name, metric in metrics.items()} for model, table in tables.items()
    }
    blocks: dict[str, dict[str, list[Values]]] = {model: {name: [] for name in metrics} for model in tables}
    for counts in resamples(len(tables[first]), count, seed, groups):
        for model, table in tables.items():
            for name, metric in metrics.items():
                blocks[model][name].append(score_resamples(metric, table, counts))
    drawn = {model: {name: np.concatenate(block) for name, block in named.items()} for model, named in blocks.items()}
    gaps = {other: {name: drawn[first][name] - drawn[other][name] for name in metrics} for other in others}
    return Comparison(
        {model: {name: interval(points[model][name], drawn[model][name]) for name in metrics} for model in tables},
        {
            other: {name: interval(points[first][name] - points[other][name], gap) for name, gap in named.items()}
            for other, named in gaps.items()
        },
        {other: {name: p_value(gap) for name, gap in named.items()} for other, named in gaps.items()},
    )
