"""The memory baseline: the answer of the most similar text of the train split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from heliostat.baselines.copy import written
from heliostat.component import Row, Settings
from heliostat.errors import DataError
from heliostat.plugin import Baseline, TaskHead


class NearestTextBaseline(Baseline):
    """The answer of the nearest train text by TF-IDF of its words and pairs of words: a translation memory."""

    class Config(Settings):
        """How texts are compared."""

        block: Annotated[int, Field(ge=1)] = 512
        """Texts that are looked up at once: bounds memory."""

    def __init__(self, config: Settings | None = None) -> None:
        super().__init__(config)
        self._vectorizer: Any = None
        self._known: Any = None
        self._answers: list[str] = []

    def fit(self, examples: Sequence[Row], head: TaskHead) -> None:
        """Keep the train texts with their answers."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
        self._known = self._vectorizer.fit_transform([example["text"] for example in examples]).T.tocsr()
        self._answers = [example["answer"] for example in examples]

    def predict(self, examples: Sequence[Row]) -> list[Row]:
        """One row an example; its score is the similarity. Raises DataError before `fit`."""
        if self._vectorizer is None:
            raise DataError("core.nearest_text has no train texts yet: call fit first.")
        rows: list[Row] = []
        for first in range(0, len(examples), self.config.block):
            texts = [example["text"] for example in examples[first : first + self.config.block]]
            similar = (self._vectorizer.transform(texts) @ self._known).toarray()
            best = similar.argmax(1)
            rows += [written(self._answers[at], float(row[at])) for at, row in zip(best, similar, strict=True)]
        return rows
