"""Texts cleaned as a run says: the same function for the examples of a preparation and for every request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

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
            if isinstance(values.get(name), str):
                values[name] = self.text(values[name], touched)
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
        names = (name for name in self.fields if name in self.required and isinstance(after.get(name), str))
        return next((name for name in names if not after[name].strip() and str(before[name]).strip()), None)

    def other_language(self, row: Row) -> str | None:
        """The language that the row's texts are surely in, where the run does not keep it."""
        if not self.settings.languages:
            return None
        texts = [row[name] for name in self.fields if isinstance(row.get(name), str)]
        return other_language("\n".join(texts), self.settings.languages, self.settings.certainty) if texts else None


NOTHING_LEFT = "nothing is left of it after data.clean"
