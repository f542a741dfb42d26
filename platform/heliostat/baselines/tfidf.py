"""TF-IDF over words and characters with logistic regression: hard to beat on a few thousand short texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from heliostat.component import Row, Settings
from heliostat.errors import DataError
from heliostat.plugin import Baseline, TaskHead

Length = Annotated[int, Field(ge=1)]

FEW_EXAMPLES = 200
"""Up to here every term counts: most would fall to `min_documents`."""


class TermSettings(Settings):
    """How texts become weighted terms. The defaults suit reviews, abstracts and code titles."""

    fields: tuple[str, ...] | None = None
    """Text fields of the example, joined by a line break; None takes every `str` field of the head's record."""
    words: tuple[Length, Length] = (1, 2)
    """Shortest and longest run of words that makes a term."""
    characters: tuple[Length, Length] = (2, 5)
    """Shortest and longest run of characters, inside word boundaries, that makes a term."""
    min_documents: Length = 2
    """Texts that must hold a term for it to count."""


class TfidfBaseline(Baseline):
    """Words (1-2) and characters within words (2-5), weighted by TF-IDF, into one logistic regression."""

    class Config(TermSettings):
        """Settings of the terms and the regression."""

        strength: Annotated[float, Field(gt=0.0)] = 2.0
        """The inverse of the L2 penalty (scikit-learn's C)."""
        class_weight: Literal["none", "balanced"] = "balanced"
        """Whether rare classes weigh as much as frequent ones."""

    def fit(self, examples: Sequence[Row], head: TaskHead) -> None:
        """Learn terms and weights. Raises DataError where there is no text, no label, or a single class."""
        self.fields = text_fields(head, self.config.fields, "core.tfidf")
        targets = [example.get("label") for example in examples]
        if len(set(targets)) < 2 or None in targets:
            raise DataError("core.tfidf needs a 'label' of two classes or more in the train examples.")
        self.labels: tuple[str, ...] = tuple(getattr(head, "labels", None) or sorted(set(map(str, targets))))
        self.pipeline = self._pipeline(len(examples))
        try:
            self.pipeline.fit(joined(examples, self.fields), targets)
        except ValueError as error:  # scikit-learn's word for texts without a single term
            raise DataError(f"core.tfidf finds no terms in {', '.join(self.fields)}: {error}") from error

    def predict(self, examples: Sequence[Row]) -> list[Row]:
        """The most probable label and the probability of each."""
        if not examples:
            return []
        known = [str(label) for label in self.pipeline.classes_]
        absent = dict.fromkeys(self.labels, 0.0)  # a class of the head that the train split lacks
        answers: list[Row] = []
        for row in self.pipeline.predict_proba(joined(examples, self.fields)).tolist():
            probabilities = dict(zip(known, row, strict=True))
            label = max(known, key=probabilities.__getitem__)
            answers.append({"label": label, "probabilities": absent | probabilities})
        return answers

    def _pipeline(self, num_examples: int) -> Any:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        weight = None if self.config.class_weight == "none" else self.config.class_weight
        regression = LogisticRegression(C=self.config.strength, class_weight=weight, max_iter=1000)
        return make_pipeline(terms(self.config, num_examples), regression)


def text_fields(head: TaskHead, chosen: tuple[str, ...] | None, address: str) -> tuple[str, ...]:
    """The text fields to read: those chosen, or every `str` field that the head takes. Raises DataError for none."""
    fields = chosen or tuple(
        name for name, field in head.takes.model_fields.items() if field.annotation in (str, str | None)
    )
    if not fields:
        raise DataError(f"{address} reads text, and {head.takes.__name__} has no str field. Name one in 'fields'.")
    return fields


def joined(examples: Sequence[Row], fields: tuple[str, ...]) -> list[str]:
    """The text of each example: its fields, a line each."""
    return ["\n".join(str(example.get(name) or "") for name in fields) for example in examples]


def terms(config: TermSettings, num_examples: int) -> Any:
    """A transformer of scikit-learn from texts to TF-IDF weights of words and characters."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    least = config.min_documents if num_examples > FEW_EXAMPLES else 1
    common: dict[str, Any] = {"min_df": least, "sublinear_tf": True, "dtype": np.float32}
    words = TfidfVectorizer(ngram_range=config.words, token_pattern=r"\b\w+\b", **common)
    characters = TfidfVectorizer(ngram_range=config.characters, analyzer="char_wb", **common)
    return make_union(words, characters)
