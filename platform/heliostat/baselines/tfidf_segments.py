"""TF-IDF over each text of an example by itself: what can be had without looking at its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from heliostat.baselines.tfidf import TermSettings, TfidfBaseline
from heliostat.component import Row
from heliostat.errors import DataError
from heliostat.plugin import Baseline, TaskHead


class TfidfSegmentsBaseline(Baseline):
    """`core.tfidf` over the texts of all examples, each by itself."""

    class Config(TermSettings):
        """Settings of the terms and the regression."""

        strength: Annotated[float, Field(gt=0.0)] = 2.0
        """The inverse of the L2 penalty (scikit-learn's C)."""

    def fit(self, examples: Sequence[Row], head: TaskHead) -> None:
        """Learn terms and weights from every text with its label. Raises DataError where there are none."""
        self.field = (self.config.fields or tuple(head.takes.model_fields))[0]
        if not all(isinstance(example.get("labels"), (list, tuple)) for example in examples):
            raise DataError("core.tfidf_segments reads the list 'labels' of the train examples, and there is none.")
        settings = self.config.model_dump() | {"fields": ("text",)}
        self.each = TfidfBaseline(TfidfBaseline.Config(**settings))
        self.each.fit(
            [
                {"text": text, "label": label}
                for example in examples
                for text, label in zip(example[self.field], example["labels"], strict=True)
            ],
            head,
        )

    def predict(self, examples: Sequence[Row]) -> list[Row]:
        """The most probable label of each text, and the probabilities."""
        answers = iter(self.each.predict([{"text": text} for example in examples for text in example[self.field]]))
        rows: list[Row] = []
        for example in examples:
            texts = [next(answers) for _ in example[self.field]]
            rows.append(
                {
                    "labels": [each["label"] for each in texts],
                    "probabilities": [each["probabilities"] for each in texts],
                }
            )
        return rows
