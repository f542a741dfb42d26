"""Paragraphs of help pages (or tickets) -> texts with their product."""

from __future__ import annotations

from collections.abc import Iterator

from heliostat.plugin import Column, DataAdapter, RejectedRecord, Row, Settings


class HelpPages(DataAdapter):
    """A text, its product and its page -> an example. A split by `page` keeps a page on one side."""

    class Config(Settings):
        """Names of the columns."""

        text: Column = "text"
        product: Column = "product"
        page: Column = "page"
        """What the text is a part of: a page, or the ticket of a message."""
        title: Column | None = "title"
        """What the page is called; None takes the page itself."""

    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        """One example a record. Rejects one that lacks a text, a product or a page."""
        names = self.config
        for row in rows:
            text, label, page = (_clean(row, key) for key in (names.text, names.product, names.page))
            title = _clean(row, names.title, page) if names.title else page
            yield {"text": text, "label": label, "page": page, "title": title}


def _clean(row: Row, name: str, otherwise: str = "") -> str:
    """What stands in a column, on one line. Raises RejectedRecord where there is nothing, and nothing else to take."""
    value = row[name]
    text = " ".join(str(value).split()) if value is not None else ""  # a ticket may have the number 0
    if not text and not otherwise:
        raise RejectedRecord(f"{name}: is missing")
    return text or otherwise
