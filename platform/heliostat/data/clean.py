"""Texts cleaned as a run says: the same function for the examples of a preparation and for every request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from heliostat.component import Row
from heliostat.data.languages import other_language
from heliostat.data.markup import in_one_form, single_spaced, without_html
from heliostat.data.redaction import ORDER, redact, require
from heliostat.plugin import TaskHead
from heliostat.registry import find
from heliostat.run import Run
from heliostat.run.cleaning import CleanSettings, text_fields

_NORMAL: dict[str, Callable[[str], str]] = {"html": without_html, "unicode": in_one_form, "space": single_spaced}
_ROUNDS = 8
"""Rounds after which a text that still changes (entities within entities) loses its marks: cleaning always ends."""

LANGUAGE = "other language"


class Cleaned(NamedTuple):
    """A row after cleaning."""

    values: Row
    touched: Mapping[str, int]
    """Step -> how often it changed something in this row; `unicode`, `redact email`."""


@dataclass(frozen=True)
class Cleaner:
    """Cleans rows. Pure, so that training and serving cannot drift apart; it may be sent to other processes.

    To clean what is clean changes nothing.
    """

    settings: CleanSettings
    fields: tuple[str, ...]
    required: frozenset[str]
    """Fields in which something must be left."""

    @classmethod
    def of(cls, run: Run) -> Cleaner | None:
        """The cleaner of a run; None for one that cleans nothing."""
        settings = run.data.clean
        if settings is None:
            return None
        head = find(run.head.type, TaskHead)  # type: ignore[type-abstract]
        fields = settings.fields or text_fields(head)
        required = {name for name, field in head.takes.model_fields.items() if field.is_required()}
        return cls(settings, fields, frozenset(required.union(head.target_fields).intersection(fields)))

    def require(self) -> None:
        """Raise DataError when a library that requests are cleaned with is not installed."""
        require(self.settings.redact)

    def __call__(self, row: Row) -> Cleaned:
        """The row with its texts cleaned."""
        if not self.settings.changes_texts:
            return Cleaned(row, {})
        touched: dict[str, int] = {}
        values = dict(row)
        for name in self.fields:
            value = values.get(name)
            if isinstance(value, str):
                values[name] = self.text(value, touched)
            elif isinstance(value, (list, tuple)):
                values[name] = [self.text(each, touched) if isinstance(each, str) else each for each in value]
        return Cleaned(values, touched)

    def text(self, text: str, touched: dict[str, int] | None = None) -> str:
        """One text, cleaned until nothing changes any more. `touched` is added to."""
        counts = {} if touched is None else touched
        for _ in range(_ROUNDS):
            before, text = text, self._once(text, counts)
            if text == before:
                return text
        return self._once(text.replace("&", " ").replace("<", " "), counts)

    def _once(self, text: str, counts: dict[str, int]) -> str:
        for step in ("html", "unicode", "space"):
            if step in self.settings.normalise:
                before, text = text, _NORMAL[step](text)
                if text != before:
                    counts[step] = counts.get(step, 0) + 1
        for kind in ORDER:
            if kind in self.settings.redact:
                text, found = redact(text, kind)
                if found:
                    counts[f"redact {kind}"] = counts.get(f"redact {kind}", 0) + found
        return text

    def emptied(self, before: Row, after: Row) -> str | None:
        """The field of which nothing is left though something must be; None where all is well."""
        for name in self.fields:
            pairs = zip(_texts(before.get(name)), _texts(after.get(name)), strict=True)
            if name in self.required and any(text.strip() and not left.strip() for text, left in pairs):
                return name
        return None

    def other_language(self, row: Row) -> str | None:
        """The language that the row's texts are surely in, where the run does not keep it."""
        if not self.settings.languages:
            return None
        texts = [text for name in self.fields for text in _texts(row.get(name))]
        return other_language("\n".join(texts), self.settings.languages, self.settings.certainty) if texts else None


def _texts(value: Any) -> list[str]:
    """The texts of a field, one or a list of them."""
    return [each for each in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(each, str)]


NOTHING_LEFT = "nothing is left of it after data.clean"
