"""The word-by-word baseline: each word of a text becomes the one that most often stands for it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from heliostat.baselines.copy import written
from heliostat.component import Row, Settings
from heliostat.errors import DataError
from heliostat.plugin import Baseline, TaskHead

Ids = npt.NDArray[np.int64]

_WORD = re.compile(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+|[^\w\s]")
"""A Chinese letter, a word, or a sign."""


class WordTableBaseline(Baseline):
    """IBM Model 1 (Brown et al. 1993) fitted on the train pairs; order, spaces and unknown words stay as they are."""

    class Config(Settings):
        """How the table is fitted."""

        iterations: Annotated[int, Field(ge=1, le=100)] = 5
        """Rounds of expectation and maximisation."""
        max_words: Annotated[int, Field(ge=1)] = 80
        """Longer texts are not learned from: bounds memory."""

    def __init__(self, config: Settings | None = None) -> None:
        super().__init__(config)
        self._best: dict[str, str] | None = None

    def fit(self, examples: Sequence[Row], head: TaskHead) -> None:
        """Learn which word stands for which from pairs of `text` and `answer`."""
        pairs = [(words(row["text"]), words(row["answer"])) for row in examples]
        cells = _cells([pair for pair in pairs if 0 < max(map(len, pair)) <= self.config.max_words])
        shares = cells.fitted(self.config.iterations)
        order = np.lexsort((-shares, cells.sources))
        firsts = order[np.unique(cells.sources[order], return_index=True)[1]]
        self._best = {
            cells.source_words[cells.sources[cell]]: cells.target_words[cells.targets[cell]]
            for cell in firsts.tolist()
            if cells.sources[cell] > 0  # 0 is no word: what stands for nothing is not written
        }

    def predict(self, examples: Sequence[Row]) -> list[Row]:
        """One row an example. Raises DataError before `fit`."""
        if self._best is None:
            raise DataError("core.word_table has no table yet: call fit first.")
        best = self._best
        return [written(_WORD.sub(lambda word: best.get(word[0], word[0]), row["text"]), 0.0) for row in examples]


def words(text: str) -> list[str]:
    """The words and signs of a text, in order."""
    return _WORD.findall(text)


class _Cells(NamedTuple):
    """The pairs of words that stand in one pair of texts somewhere, and each of their meetings."""

    source_words: list[str]
    target_words: list[str]
    sources: Ids  # [cells]
    targets: Ids  # [cells]
    cell: Ids  # [meetings]
    place: Ids  # [meetings], the target word in running text that the meeting is about

    def fitted(self, iterations: int) -> npt.NDArray[np.float64]:
        """How probable the target of each cell is, given its source: [cells]."""
        shares = np.ones(len(self.sources))
        for _ in range(iterations):
            found = shares[self.cell]
            found /= np.bincount(self.place, found)[self.place]
            counts = np.bincount(self.cell, found, len(shares))
            shares = counts / np.bincount(self.sources, counts)[self.sources]
        return shares


def _cells(pairs: list[tuple[list[str], list[str]]]) -> _Cells:
    """All meetings of words; the empty word, number 0, meets every target."""
    source_words = ["", *Counter(word for source, _ in pairs for word in source)]
    target_words = [*Counter(word for _, target in pairs for word in target)]
    number, wanted = ({word: at for at, word in enumerate(each)} for each in (source_words, target_words))
    keys, places, first = [], [], 0
    for source, target in pairs:
        left = np.array([0, *(number[word] for word in source)], dtype=np.int64)
        right = np.array([wanted[word] for word in target], dtype=np.int64)
        keys.append((left[None, :] * len(target_words) + right[:, None]).ravel())
        places.append(np.repeat(np.arange(first, first + len(right)), len(left)))
        first += len(right)
    if not first:
        raise DataError("core.word_table: no pair of texts is short enough to learn from. Raise max_words.")
    unique, cell = np.unique(np.concatenate(keys), return_inverse=True)
    sources, targets = np.divmod(unique, len(target_words))
    return _Cells(source_words, target_words, sources, targets, cell, np.concatenate(places))
