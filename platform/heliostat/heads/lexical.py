"""A linear model over words and characters beside a network: what one of them misses the other often finds.

Terms are hashed, so there is no vocabulary to keep, and weighted by TF-IDF; the weights are those of a linear support
vector machine (one class against the others), fitted on the train split. They learn nothing from the network and the
network nothing from them: their scores are added when an answer is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from heliostat.batch import Encoded
from heliostat.component import LATER, Row, Settings
from heliostat.errors import DataError
from heliostat.plugin import Record

Floats = npt.NDArray[np.float32]

_FILE = "lexical.safetensors"
_TERMS = 2**17
"""Places of hashed words, and as many of hashed characters."""
_MOST_CLASSES = 200
"""A score of each class stands in the shards beside the tokens."""


class LexicalSettings(Settings):
    """A linear model over words (1-2) and characters within words (2-5) beside the network."""

    weight: Annotated[float, Field(gt=0.0), LATER] = 1.0
    """What a margin of 1 adds to the log-probability of a class."""
    strength: Annotated[float, Field(gt=0.0)] = 0.3
    """The inverse of the L2 penalty (scikit-learn's C)."""


class Lexical:
    """The fitted linear model."""

    def __init__(self, rarity: Floats, weights: npt.NDArray[np.float16], bias: Floats) -> None:
        self.rarity = rarity  # [terms], the inverse document frequency
        self.weights = weights  # [terms, classes]
        self.bias = bias  # [classes]

    @classmethod
    def fit(cls, texts: Sequence[str], labels: Sequence[int], num_classes: int, settings: LexicalSettings) -> Self:
        """Learn from texts and the numbers of their classes. Raises DataError for too many classes or one alone."""
        from sklearn.svm import LinearSVC

        known = sorted(set(labels))
        if num_classes > _MOST_CLASSES or len(known) < 2:
            raise DataError(f"head.lexical takes 2 to {_MOST_CLASSES} classes; there are {num_classes}. Leave it out.")
        counts = _counts(texts)
        texts_with = np.bincount(counts.indices, minlength=2 * _TERMS)
        rarity = (np.log((1 + len(texts)) / (1 + texts_with)) + 1).astype(np.float32)
        machine = LinearSVC(C=settings.strength, class_weight="balanced", random_state=0)
        machine.fit(_weighted(counts, rarity), labels)
        found, bias = machine.coef_, machine.intercept_
        if len(known) == 2:  # scikit-learn gives two classes one row
            found, bias = np.concatenate([-found, found]), np.concatenate([-bias, bias])
        weights = np.zeros((2 * _TERMS, num_classes), dtype=np.float16)
        weights[:, known] = found.T
        absent = np.full(num_classes, -1.0, dtype=np.float32)  # a class that the train split lacks is on no side
        absent[known] = bias
        return cls(rarity, weights, absent)

    def save(self, folder: Path) -> None:
        """Write the weights."""
        from safetensors.numpy import save_file

        save_file({"rarity": self.rarity, "weights": self.weights, "bias": self.bias}, folder / _FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the weights."""
        from safetensors.numpy import load_file

        held = load_file(folder / _FILE)
        return cls(held["rarity"], held["weights"], held["bias"])

    def margins(self, texts: Sequence[str]) -> list[Encoded]:
        """The margin of each class, a number a column (`columns`), for each text."""
        terms = _weighted(_counts(texts), self.rarity)
        scores = np.empty((len(texts), len(self.bias)), dtype=np.float32)
        for row in range(len(texts)):  # row by row: the weights in fp32, all at once, would be half a gigabyte
            places = slice(terms.indptr[row], terms.indptr[row + 1])
            scores[row] = terms.data[places] @ self.weights[terms.indices[places]].astype(np.float32) + self.bias
        names = columns(len(self.bias))
        return [dict(zip(names, map(float, row), strict=True)) for row in scores]


def columns(num_classes: int) -> list[str]:
    """The names of the margins' columns in a batch."""
    return [f"lexical_{number}" for number in range(num_classes)]


def texts_of(examples: Sequence[Row], takes: type[Record]) -> list[str]:
    """The text fields of each record, a line each."""
    names = [name for name, field in takes.model_fields.items() if field.annotation in (str, str | None)]
    return ["\n".join(str(example.get(name) or "") for name in names) for example in examples]


def _counts(texts: Sequence[str]) -> Any:
    """How often each term stands in each text: a sparse [texts, terms] of scikit-learn."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import HashingVectorizer

    common: dict[str, Any] = {"n_features": _TERMS, "alternate_sign": False, "norm": None, "dtype": np.float32}
    words = HashingVectorizer(ngram_range=(1, 2), token_pattern=r"\b\w+\b", **common)
    characters = HashingVectorizer(ngram_range=(2, 5), analyzer="char_wb", **common)
    return hstack([words.transform(texts), characters.transform(texts)]).tocsr()


def _weighted(counts: Any, rarity: Floats) -> Any:
    """TF-IDF with logarithmic counts, words and characters of length 1 each."""
    weighted = counts.copy()
    weighted.data = (1 + np.log(weighted.data)) * rarity[weighted.indices]
    rows = np.repeat(np.arange(weighted.shape[0]), np.diff(weighted.indptr))
    halves = 2 * rows + (weighted.indices >= _TERMS)
    lengths = np.sqrt(np.bincount(halves, weighted.data**2, minlength=2 * weighted.shape[0]))
    weighted.data = (weighted.data / lengths[halves]).astype(np.float32)
    return weighted
