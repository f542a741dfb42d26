"""TF-IDF with one logistic regression a label: what to try first where a text may have several labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from heliostat.baselines.tfidf import TermSettings, joined, terms, text_fields
from heliostat.component import Row
from heliostat.errors import DataError
from heliostat.plugin import Baseline, TaskHead


class TfidfLabelsBaseline(Baseline):
    """Words (1-2) and characters within words (2-5), weighted by TF-IDF, into a logistic regression for each label."""

    class Config(TermSettings):
        """Settings of the terms and the regressions."""

        strength: Annotated[float, Field(gt=0.0)] = 2.0
        """The inverse of the L2 penalty (scikit-learn's C)."""

    def fit(self, examples: Sequence[Row], head: TaskHead) -> None:
        """Learn terms and weights. Raises DataError where there is no text, or the head knows no labels."""
        from sklearn.linear_model import LogisticRegression

        self.fields = text_fields(head, self.config.fields, "core.tfidf_labels")
        self.labels: tuple[str, ...] = tuple(getattr(head, "labels", ()))
        if not self.labels or not all(isinstance(example.get("labels"), (list, tuple)) for example in examples):
            raise DataError("core.tfidf_labels reads the list 'labels' of the train examples, and there is none.")
        self.terms = terms(self.config, len(examples))
        try:
            texts = self.terms.fit_transform(joined(examples, self.fields))
        except ValueError as error:  # scikit-learn's word for texts without a single term
            raise DataError(f"core.tfidf_labels finds no terms in {', '.join(self.fields)}: {error}") from error
        self.models = []
        for label in self.labels:
            has = np.array([label in example["labels"] for example in examples])
            model = LogisticRegression(C=self.config.strength, class_weight="balanced", max_iter=1000)
            # A label that all or none of the train examples have leaves nothing to learn.
            self.models.append(model.fit(texts, has) if has.any() and not has.all() else float(has.mean()))

    def predict(self, examples: Sequence[Row]) -> list[Row]:
        """The labels whose probability is one half or more, and the probability of each."""
        if not examples:
            return []
        texts = self.terms.transform(joined(examples, self.fields))
        columns = [
            np.full(len(examples), model) if isinstance(model, float) else model.predict_proba(texts)[:, 1]
            for model in self.models
        ]
        answers: list[Row] = []
        for row in np.stack(columns, axis=1).tolist():
            chosen = [label for label, share in zip(self.labels, row, strict=True) if share >= 0.5]
            answers.append({"labels": chosen, "probabilities": dict(zip(self.labels, row, strict=True))})
        return answers
