"""Reviews with stars -> texts with a polarity."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import model_validator

from heliostat.plugin import Column, DataAdapter, RejectedRecord, Row, Settings

_ENDS = (".", "!", "?", "…", ":", ";", ",", "-")


class StarReviews(DataAdapter):
    """A title, a text and stars -> one text and `negative`, `neutral` or `positive`."""

    class Config(Settings):
        """Names of the columns, and the stars at which a polarity begins."""

        text: Column = "review"
        title: Column | None = "title"
        """Read before the text; None where the source has no titles."""
        stars: Column = "rating"
        negative_to: float = 2.0
        """The most stars of a negative review."""
        positive_from: float = 4.0
        """The fewest stars of a positive review; those between are neutral."""
        range: tuple[float, float] = (1.0, 5.0)
        """Fewest and most stars that can be given; a record outside is rejected."""

        @model_validator(mode="after")
        def _in_order(self) -> StarReviews.Config:
            low, high = self.range
            if not low <= self.negative_to < self.positive_from <= high:
                raise ValueError(
                    f"range[0] <= negative_to < positive_from <= range[1] must hold; found {low:g}, "
                    f"{self.negative_to:g}, {self.positive_from:g}, {high:g}."
                )
            return self

    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        """One example a review. Rejects a review without text, or with stars that are missing or out of range."""
        names = self.config
        for row in rows:
            text = _clean(row[names.text])
            if not text:
                raise RejectedRecord(f"{names.text}: is missing")
            title = _clean(row[names.title]) if names.title else ""
            yield {"text": joined(title, text), "label": self._polarity(row[names.stars])}

    def _polarity(self, given: object) -> str:
        low, high = self.config.range
        if given is None or isinstance(given, bool):
            raise RejectedRecord(f"{self.config.stars}: is missing or no number")
        stars = float(given)  # type: ignore[arg-type]
        if not low <= stars <= high:
            raise RejectedRecord(f"{self.config.stars}: {stars:g} is not between {low:g} and {high:g}")
        if stars <= self.config.negative_to:
            return "negative"
        return "positive" if stars >= self.config.positive_from else "neutral"


def joined(title: str, text: str) -> str:
    """The title as a sentence of its own before the text: what a reader of both would have read."""
    if not title:
        return text
    return f"{title} {text}" if title.endswith(_ENDS) else f"{title}. {text}"


def _clean(value: object) -> str:
    """The text on one line, without white space at its ends; nothing for None."""
    return " ".join(str(value).split()) if value is not None else ""
