"""BLEU and chrF by sacreBLEU, over the columns `target_answer` and `answer` of the table of predictions.

Both are made of counts that add up over texts: so they are scored for many bootstrap resamples by one product, and
add up over batches and workers during training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from heliostat.plugin import Metric

if TYPE_CHECKING:
    import pandas as pd

Values = npt.NDArray[np.float64]

BLEU_SUMS = "bleu_sums"
"""The counts behind BLEU in a tally: length, reference length, then matches and totals of 1- to 4-grams: [10]."""


def text_metrics(tokenize: str) -> dict[str, Metric]:
    """BLEU and chrF, 0 to 100."""
    return {"bleu": Bleu(tokenize), "chrf": ChrF()}


class _Summed:
    """A score of sacreBLEU from the sums of its counts."""

    def _metric(self) -> Any:
        raise NotImplementedError

    def counts(self, answers: Sequence[str], targets: Sequence[str]) -> Values:
        """The counts of each text: [texts, counts]."""
        found = self._metric()._extract_corpus_statistics(list(answers), [list(targets)])
        return np.asarray(found, dtype=np.float64)

    def of_sums(self, sums: Values) -> float:
        """The score of counts that were added up."""
        return float(self._metric()._compute_score_from_stats([int(each) for each in sums]).score)

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        return float(self.resampled(table, np.ones((1, len(table))))[0])

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample; `counts` says how often each holds each row: [resamples, rows]."""
        sums = np.matmul(counts, self.counts(table["answer"].tolist(), table["target_answer"].tolist()))
        return np.array([self.of_sums(row) for row in sums])

    @property
    def signature(self) -> str:
        """What sacreBLEU calls this score, so that others can compute the same (Post 2018)."""
        metric = self._metric()
        metric.num_refs = 1
        return str(metric.get_signature())


class Bleu(_Summed):
    """Corpus BLEU (Papineni et al. 2002), 0 to 100, with the words that sacreBLEU cuts."""

    def __init__(self, tokenize: str = "13a") -> None:
        self.tokenize = tokenize

    def _metric(self) -> Any:
        from sacrebleu.metrics import BLEU

        return BLEU(tokenize=self.tokenize)


class ChrF(_Summed):
    """Corpus chrF (Popović 2015), the F2 of character 1- to 6-grams, 0 to 100."""

    def _metric(self) -> Any:
        from sacrebleu.metrics import CHRF

        return CHRF()


def bleu_of_sums(sums: Values) -> float:
    """BLEU of counts that were added up over batches and workers."""
    return Bleu().of_sums(sums)
