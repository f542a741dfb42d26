"""Rows with one column a language -> pairs of two of them."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import model_validator

from heliostat.plugin import Column, DataAdapter, RejectedRecord, Row, Settings


class Pairs(DataAdapter):
    """A record with texts of the same meaning -> a `text` and its `answer` in another language."""

    class Config(Settings):
        """Which columns are translated into which, and what of the file is used."""

        source: Column = "en"
        target: Column = "de"
        kind: Column | None = "kind"
        """The column that says what a text is; None where there is none."""
        kinds: tuple[str, ...] = ("text", "phrase", "ui")
        """The kinds that are used: paragraphs, headings and cells, strings of the program."""
        accelerators: bool = False
        """Whether `~` stays before the letter that is a key of the keyboard; elsewhere it only cuts words in two."""
        max_ratio: float = 4.0
        """A pair of which one text has this many times the letters of the other is no translation: left out."""

        @model_validator(mode="after")
        def _two_languages(self) -> Pairs.Config:
            if self.source == self.target:
                raise ValueError(f"source and target must be two columns; both are '{self.source}'.")
            return self

    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        """One example a record of a wanted kind that has both texts; rejects one whose source is missing."""
        names = self.config
        for row in rows:
            if names.kind is not None and row[names.kind] not in names.kinds:
                continue
            text, answer = (self._clean(row[name]) for name in (names.source, names.target))
            if not text:
                raise RejectedRecord(f"{names.source}: is missing")
            if answer and not self._is_uneven(text, answer):
                yield {"text": text, "answer": answer}

    def _clean(self, value: object) -> str:
        text = " ".join(str(value).split()) if value is not None else ""
        return text if self.config.accelerators else text.replace("~", "")

    def _is_uneven(self, text: str, answer: str) -> bool:
        # Ten letters more or less say nothing of short texts, and Chinese writes a word in one letter or two.
        short, long = sorted((len(text.encode()), len(answer.encode())))
        return bool(long > self.config.max_ratio * (short + 10))
