"""Scores of a tagging, over the columns `target_tags` and `tags`, each row a list of tags.

An entity is right when its kind, its beginning and its end are: the count of CoNLL-2003, taken from seqeval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from heliostat.plugin import Metric

if TYPE_CHECKING:
    import pandas as pd

Values = npt.NDArray[np.float64]
Entity = tuple[str, int, int]
"""Kind, first and last word."""


def entities(tags: Sequence[str]) -> set[Entity]:
    """The entities of one text."""
    from seqeval.metrics.sequence_labeling import get_entities

    return set(get_entities(list(tags)))


def tagging_metrics(tags: Sequence[str]) -> dict[str, Metric]:
    """Over all entities F1, precision and recall, then accuracy of words, then the F1 of each kind of entity."""
    kinds = sorted({tag.partition("-")[2] for tag in tags if tag[:2] in {"B-", "I-", "E-", "S-"}})
    return {
        "entity_f1": OverEntities(_f1),
        "entity_precision": OverEntities(lambda hits, found, there: _ratio(hits, found)),
        "entity_recall": OverEntities(lambda hits, found, there: _ratio(hits, there)),
        "accuracy": OverWords(),
        **{f"f1_{kind}": OverEntities(_f1, kind) for kind in kinds},
    }


class OverEntities:
    """A score from three sums over entities, of one kind or of all: found and right, found, there."""

    def __init__(self, score: Callable[[Values, Values, Values], Values], kind: str | None = None) -> None:
        self.score, self.kind = score, kind

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        return float(self.resampled(table, np.ones((1, len(table))))[0])

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample, NaN where nothing is to be found; `counts`: [resamples, rows]."""
        rows = [
            (len(there & found), len(found), len(there))
            for there, found in zip(self._of(table["target_tags"]), self._of(table["tags"]), strict=True)
        ]
        hits, found, there = (counts @ np.array(rows, dtype=np.float64).reshape(-1, 3)).T
        return self.score(hits, found, there)

    def _of(self, column: pd.Series[list[str]]) -> list[set[Entity]]:
        every = [entities(tags) for tags in column]
        return [{each for each in row if self.kind in (None, each[0])} for row in every]


class OverWords:
    """The share of the words that were tagged right."""

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        return float(self.resampled(table, np.ones((1, len(table))))[0])

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample; `counts`: [resamples, rows]."""
        pairs = zip(table["target_tags"], table["tags"], strict=True)
        rows = [(sum(a == b for a, b in zip(*pair, strict=True)), len(pair[0])) for pair in pairs]
        right, words = (counts @ np.array(rows, dtype=np.float64).reshape(-1, 2)).T
        return _ratio(right, words)


def _f1(hits: Values, found: Values, there: Values) -> Values:
    return _ratio(2 * hits, found + there)


def _ratio(part: Values, whole: Values) -> Values:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
