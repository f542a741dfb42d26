"""Scores over the texts that examples are made of, from a table with one row an example.

A text is a row of the score, and an example is what a resample draws: texts of one example stand or fall together, so
intervals that drew single texts would be too narrow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import numpy.typing as npt

from heliostat.plugin import Metric

if TYPE_CHECKING:
    import pandas as pd

Values = npt.NDArray[np.float64]


class _Resampled(Protocol):
    def __call__(self, table: pd.DataFrame) -> float: ...

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values: ...


def over_segments(metric: Metric) -> Metric:
    """A score of single texts as one of examples; `metric` has the method `resampled`."""
    assert hasattr(metric, "resampled"), f"{type(metric).__name__} scores no resamples"
    return OverSegments(cast(_Resampled, metric))


class OverSegments:
    """Reads the lists `target_labels`, `labels` and `probabilities`, whose places belong together."""

    def __init__(self, metric: _Resampled) -> None:
        self.metric = metric
        self._flat: tuple[pd.DataFrame, pd.DataFrame, npt.NDArray[np.int64]] | None = None

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        return float(self.metric(self._texts(table)[0]))

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample; `counts` says how often each holds each example: [resamples, examples]."""
        texts, owners = self._texts(table)
        return self.metric.resampled(texts, counts[:, owners])

    def _texts(self, table: pd.DataFrame) -> tuple[pd.DataFrame, npt.NDArray[np.int64]]:
        """One row a text, and the example that it is of; kept, as each block of resamples asks for the same table."""
        import pandas as pd

        if self._flat is None or self._flat[0] is not table:
            lists = table["target_labels"].to_list()
            flat = pd.DataFrame(
                {
                    "target_label": [label for labels in lists for label in labels],
                    "label": [label for labels in table["labels"] for label in labels],
                }
            )
            shares = pd.DataFrame([each for row in table["probabilities"] for each in row]).add_prefix("probability_")
            owners = np.repeat(np.arange(len(lists), dtype=np.int64), [len(labels) for labels in lists])
            self._flat = (table, pd.concat([flat, shares], axis=1), owners)
        _, texts, owners = self._flat
        return texts, owners
