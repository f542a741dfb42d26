"""A memory of translated pairs that is asked for the nearest one by its words."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from heliostat.plugin import Row

_WORD = re.compile(r"\w+|[^\w\s]")


class _Index(NamedTuple):
    """Which texts hold which words."""

    rows: dict[str, npt.NDArray[np.int32]]
    rarity: dict[str, float]
    lengths: npt.NDArray[np.float64]  # of each text's vector


class Memory:
    """Pairs of texts, looked up by the cosine of their words, rare ones counting more (TF-IDF without counts)."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self.pairs = list(pairs)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote."""
        return cls([(text, answer) for text, answer in json.loads(path.read_text(encoding="utf-8"))])

    def write(self, path: Path) -> None:
        """Write the pairs as JSON."""
        path.write_text(json.dumps(self.pairs, ensure_ascii=False), encoding="utf-8")

    def nearest(self, text: str) -> Row | None:
        """The most similar pair as `text`, `answer` and `similarity`; None when no word is known."""
        if not self.pairs:
            return None
        index, scores = self._index, np.zeros(len(self.pairs))
        known = [word for word in _words(text) if word in index.rows]
        if not known:
            return None
        for word in known:
            scores[index.rows[word]] += index.rarity[word] ** 2
        rarest = math.log(1 + len(self.pairs))
        length = math.sqrt(sum(index.rarity.get(word, rarest) ** 2 for word in _words(text)))
        scores /= index.lengths * length
        best = int(scores.argmax())
        source, answer = self.pairs[best]
        return {"text": source, "answer": answer, "similarity": round(min(1.0, float(scores[best])), 4)}

    @cached_property
    def _index(self) -> _Index:
        texts = [_words(text) for text, _ in self.pairs]
        counts = Counter(word for words in texts for word in words)
        rarity = {word: math.log(1 + len(texts) / count) for word, count in counts.items()}
        rows: dict[str, list[int]] = {word: [] for word in counts}
        for row, words in enumerate(texts):
            for word in words:
                rows[word].append(row)
        lengths = np.array([math.sqrt(sum(rarity[word] ** 2 for word in words)) or 1.0 for words in texts])
        return _Index({word: np.array(found, dtype=np.int32) for word, found in rows.items()}, rarity, lengths)


def _words(text: str) -> list[str]:
    return sorted(set(_WORD.findall(text.casefold())))
