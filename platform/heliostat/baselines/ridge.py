"""Ridge regression over TF-IDF: what to try first where a number is asked of a short text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from heliostat.baselines.mean import numbers
from heliostat.baselines.tfidf import TermSettings, joined, terms, text_fields
from heliostat.component import Row
from heliostat.errors import DataError
from heliostat.plugin import Baseline, TaskHead


class RidgeBaseline(Baseline):
    """Words (1-2) and characters within words (2-5), weighted by TF-IDF, into one ridge regression."""

    class Config(TermSettings):
        """Settings of the terms and the regression."""

        penalty: Annotated[float, Field(gt=0.0)] = 1.0
        """Weight of the squared coefficients (scikit-learn's alpha)."""

    def fit(self, examples: Sequence[Row], head: TaskHead) -> None:
        """Learn terms and weights. Raises DataError where there is no text or no number."""
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline

        self.fields = text_fields(head, self.config.fields, "core.ridge")
        values = numbers(examples, "core.ridge")
        self.pipeline = make_pipeline(terms(self.config, len(examples)), Ridge(alpha=self.config.penalty))
        try:
            self.pipeline.fit(joined(examples, self.fields), values)
        except ValueError as error:  # scikit-learn's word for texts without a single term
            raise DataError(f"core.ridge finds no terms in {', '.join(self.fields)}: {error}") from error

    def predict(self, examples: Sequence[Row]) -> list[Row]:
        """The number of each example."""
        if not examples:
            return []
        return [{"value": float(value)} for value in self.pipeline.predict(joined(examples, self.fields))]
