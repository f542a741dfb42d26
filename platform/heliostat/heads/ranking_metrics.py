"""Scores of a ranking, over the columns `target_next` and `items`, each row a list of items; the best stand first.

Full ranking: an answer holds the best of the whole catalogue, seen items left out. A row without a target counts in no
mean. NDCG is that of binary relevance (Järvelin and Kekäläinen 2002).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from heliostat.heads.item_relations import Relations
from heliostat.plugin import Metric

if TYPE_CHECKING:
    import pandas as pd

Values = npt.NDArray[np.float64]
Score = Callable[[Sequence[str], Sequence[str], int], float]
"""(items of an answer, targets, k) -> the score of one row."""


def ranking_metrics(k: int, relations: Relations) -> dict[str, Metric]:
    """NDCG first, then recall and reciprocal rank, then what accuracy does not say: coverage and diversity."""
    return {
        f"ndcg_at_{k}": MeanOverRows(ndcg, k),
        f"recall_at_{k}": MeanOverRows(recall, k),
        f"mrr_at_{k}": MeanOverRows(reciprocal_rank, k),
        f"coverage_at_{k}": Coverage(k, len(relations.names)),
        f"diversity_at_{k}": Diversity(k, relations),
    }


def ndcg(items: Sequence[str], targets: Sequence[str], k: int) -> float:
    """The discounted gain of the first k over that of the best order there is."""
    wanted = set(targets)
    gain = sum(1.0 / np.log2(place + 2) for place, item in enumerate(items[:k]) if item in wanted)
    return float(gain / sum(1.0 / np.log2(place + 2) for place in range(min(k, len(wanted)))))


def recall(items: Sequence[str], targets: Sequence[str], k: int) -> float:
    """The share of the targets that stand among the first k."""
    return len(set(targets) & set(items[:k])) / len(set(targets))


def reciprocal_rank(items: Sequence[str], targets: Sequence[str], k: int) -> float:
    """1 / the place of the first target among the first k, and 0 where there is none."""
    wanted = set(targets)
    return next((1.0 / place for place, item in enumerate(items[:k], start=1) if item in wanted), 0.0)


class MeanOverRows:
    """The mean of a row's score, over the rows that have a target."""

    def __init__(self, score: Score, k: int) -> None:
        self.score, self.k = score, k

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        return float(self.resampled(table, np.ones((1, len(table))))[0])

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample; `counts` says how often each holds each row: [resamples, rows]."""
        return _means(self.of_rows(table), counts)

    def of_rows(self, table: pd.DataFrame) -> Values:
        """The score of each row, NaN where it has no target."""
        rows = zip(table["items"], table["target_next"], strict=True)
        return np.array([self.score(items, next, self.k) if len(next) else np.nan for items, next in rows])


class Diversity(MeanOverRows):
    """How little the items of an answer go together: 1 minus their mean cosine, over pairs of them.

    The cosine is that of the train histories that hold each; items that are no neighbours count as 0.
    """

    def __init__(self, k: int, relations: Relations) -> None:
        super().__init__(self._of_answer, k)
        self.relations = relations

    def of_rows(self, table: pd.DataFrame) -> Values:
        """The diversity of each answer, NaN for those of less than two items."""
        return np.array([self._of_answer(items, (), self.k) for items in table["items"]])

    def _of_answer(self, items: Sequence[str], targets: Sequence[str], k: int) -> float:
        shown = list(items[:k])
        if len(shown) < 2:
            return float("nan")
        known = [self._neighbours(item) for item in shown]
        pairs = [(a, b) for a in range(len(shown)) for b in range(a)]
        cosines = [max(known[a].get(shown[b], 0.0), known[b].get(shown[a], 0.0)) for a, b in pairs]
        return 1.0 - sum(cosines) / len(pairs)

    def _neighbours(self, item: str) -> dict[str, float]:
        return self.relations.similar(item)


class Coverage:
    """The share of the items of the train split that stand in one answer or more.

    It is no mean over rows: a resample holds fewer different rows and so covers less. It has no interval of that kind.
    """

    def __init__(self, k: int, num_items: int) -> None:
        self.k, self.num_items = k, num_items

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        return len({item for items in table["items"] for item in items[: self.k]}) / max(1, self.num_items)

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """Undefined for each resample: [resamples]."""
        return np.full(len(counts), np.nan)


def _means(rows: Values, counts: Values) -> Values:
    """The mean of the defined rows of each resample, NaN where there is none."""
    defined = np.isfinite(rows)
    totals = counts @ defined
    sums = counts @ np.where(defined, rows, 0.0)
    means: Values = np.divide(sums, totals, out=np.full(len(counts), np.nan), where=totals > 0)
    return means
