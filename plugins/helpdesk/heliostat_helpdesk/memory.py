"""The paragraphs that were trained on, looked up by the words they share with a text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from heliostat.plugin import Row

_WIDER = 10
"""Paragraphs that are looked at for each page that is wanted: several of the nearest may stand on one page."""


class Memory:
    """Rows with a `text` and a `page`, compared by the cosine of their words, rare ones counting more (TF-IDF)."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)

    def nearest(self, texts: Sequence[str], count: int) -> list[list[int]]:
        """For each text the places of `count` rows of different pages, the nearest first; -1 where there are fewer."""
        if not self.rows or not count:
            return [[-1] * count for _ in texts]
        vectorizer, known = self._index
        similar = (vectorizer.transform(texts) @ known).toarray()  # [texts, rows]
        return [self._pages(row, count) for row in similar]

    def _pages(self, similar: Any, count: int) -> list[int]:
        wide = min(len(self.rows), _WIDER * count)
        pages: dict[str, int] = {}
        for place in sorted(similar.argpartition(-wide)[-wide:].tolist(), key=lambda at: (-similar[at], at)):
            if similar[place] > 0:
                pages.setdefault(self.rows[place]["page"], place)
        return [*pages.values(), *[-1] * count][:count]

    @cached_property
    def _index(self) -> tuple[Any, Any]:
        from sklearn.feature_extraction.text import TfidfVectorizer

        # A question is made of words that a help hardly has: how, do, I.
        settings: dict[str, Any] = {"stop_words": "english", "sublinear_tf": True, "dtype": np.float32}
        vectorizer = TfidfVectorizer(token_pattern=r"\w+", **settings)
        return vectorizer, vectorizer.fit_transform([row["text"] for row in self.rows]).T.tocsr()
