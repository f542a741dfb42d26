"""What a head's scores are made of: sums that add up, scores over the table of predictions, lines for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

Tally = dict[str, "npt.NDArray[np.float64]"]
"""Sums over predictions that add up across batches and workers: a confusion matrix, a squared error and its count."""


class Chart(NamedTuple):
    """Lines that the report draws for a head."""

    title: str
    x: str
    """What the horizontal axis shows."""
    y: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    """Name -> the points of a line; `model` is the evaluated one, baselines go by their address."""
    caption: str = ""
    diagonal: bool = False
    """Whether to draw where both axes are equal."""


class Metric(Protocol):
    """A score over the table of predictions: one row an example, targets as `target_<field>` beside predictions.

    NaN or a ValueError says that it is undefined there. With a method `resampled(table, counts)` it scores many
    bootstrap resamples at once, which makes intervals fast (`heliostat.evaluate.intervals.ResampledMetric`).
    """

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of the rows of `table`."""
        ...
