"""Whether what a program reads came through a translation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from heliostat_translation.placeholders import marks

if TYPE_CHECKING:
    import pandas as pd


class MarksKept:
    """The share of the texts with tags or variables whose translation has the same ones as the target."""

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        return float(self.resampled(table, np.ones((1, len(table))))[0])

    def resampled(self, table: pd.DataFrame, counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The score of each resample; `counts` says how often each holds each row: [resamples, rows]."""
        wanted = [sorted(marks(text)) for text in table["target_answer"]]
        found = [sorted(marks(text)) for text in table["answer"]]
        asked = np.array([bool(each) for each in wanted], dtype=np.float64)
        kept = np.array([a == b for a, b in zip(wanted, found, strict=True)], dtype=np.float64) * asked
        total = counts @ asked
        shares: npt.NDArray[np.float64] = np.divide(
            counts @ kept, total, out=np.full(len(counts), np.nan), where=total > 0
        )
        return shares
