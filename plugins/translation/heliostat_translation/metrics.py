"""Whether what a program reads came through a translation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from heliostat_translation.placeholders import marks

if TYPE_CHECKING:
    import pandas as pd


FEWEST = 10
"""Texts with marks of which a share says something."""


class MarksKept:
    """The share of the texts with tags or variables whose translation has the same ones as the target.

    Undefined (NaN) for a table with fewer than FEWEST such texts.
    """

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        return float(self.resampled(table, np.ones((1, len(table))))[0])

    def resampled(self, table: pd.DataFrame, counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The score of each resample; `counts` says how often each holds each row: [resamples, rows]."""
        wanted = [sorted(marks(text)) for text in table["target_answer"]]
        found = [sorted(marks(text)) for text in table["answer"]]
        asked = np.array([bool(each) for each in wanted], dtype=np.float64)
        kept = np.array([a == b for a, b in zip(wanted, found, strict=True)], dtype=np.float64) * asked
        shares: npt.NDArray[np.float64] = np.full(len(counts), np.nan)
        if asked.sum() < FEWEST:
            return shares
        total = counts @ asked
        return np.divide(counts @ kept, total, out=shares, where=total > 0)
