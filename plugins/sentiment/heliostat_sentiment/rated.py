"""Sentences that people rated from -4 to 4 -> texts with a polarity (Hutto and Gilbert 2014)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from heliostat.plugin import Column, DataAdapter, Field, RejectedRecord, Row, Settings

_DOMAINS = {"movie": "movies", "nyt": "news", "tweets": "tweets", "amazon": "products"}
"""How the files' names begin -> what their sentences are about."""


class RatedSentences(DataAdapter):
    """A sentence and the mean of its ratings -> one text and `negative`, `neutral` or `positive`."""

    class Config(Settings):
        """Names of the columns, and how far from 0 a polarity begins."""

        text: Column = "text"
        rating: Column = "rating"
        number: Column | None = "id"
        """Numbers sentences as `document_sentence`, so that a split can keep a document on one side."""
        domain: Column | None = "domain"
        """The name of the file, which tells what the sentence is about."""
        neutral_within: Annotated[float, Field(gt=0.0, lt=4.0)] = 0.5
        """A mean nearer to 0 than this is neutral."""

    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        """One example a sentence, with its `domain` and `document`. Rejects a mean that is not between -4 and 4."""
        for row in rows:
            text = " ".join(str(row[self.config.text] or "").split())
            if not text:
                raise RejectedRecord(f"{self.config.text}: is missing")
            domain = _domain(str(row[self.config.domain])) if self.config.domain else ""
            number = str(row[self.config.number]) if self.config.number else text
            yield {
                "text": text,
                "label": self._polarity(row[self.config.rating]),
                "domain": domain,
                "document": f"{domain} {number.partition('_')[0]}",
            }

    def _polarity(self, given: object) -> str:
        if given is None:
            raise RejectedRecord(f"{self.config.rating}: is missing")
        mean = float(given)  # type: ignore[arg-type]
        if not -4.0 <= mean <= 4.0:
            raise RejectedRecord(f"{self.config.rating}: {mean:g} is not between -4 and 4")
        if abs(mean) < self.config.neutral_within:
            return "neutral"
        return "positive" if mean > 0 else "negative"


def _domain(file: str) -> str:
    return next((name for start, name in _DOMAINS.items() if file.startswith(start)), file)
