"""Which fields of a head are cleaned: what holds texts, optional ones, limited ones and lists of them."""

from __future__ import annotations

from typing import Annotated, ClassVar

import pytest

from heliostat.component import Row
from heliostat.data.clean import Cleaner
from heliostat.heads.classification import Classification
from heliostat.plugin import Field, Record
from heliostat.run.cleaning import CleanSettings, check_cleaning, text_fields


class Letter(Record):
    subject: str
    note: Annotated[str, Field(max_length=200)] | None = None
    pages: list[Annotated[str, Field(max_length=500)]] | None = None


class Letters(Classification):
    takes: ClassVar[type[Record]] = Letter


def test_optional_texts_with_a_limit_and_lists_that_are_named_are_cleaned() -> None:
    assert text_fields(Letters) == ("subject", "note")
    by_default, named = CleanSettings(redact=("email",)), CleanSettings(redact=("email",), fields=("note", "pages"))
    check_cleaning(named, Letters)
    check_cleaning(CleanSettings(duplicates="exact"), Letters)
    with pytest.raises(ValueError, match=r"takes lists of texts \(pages\).*data.clean.fields"):
        check_cleaning(by_default, Letters)
    row: Row = {"subject": "a@example.org", "note": "b@example.org", "pages": ["c@example.org", "<br>"]}
    cleaner = Cleaner(named, ("note", "pages"), frozenset({"pages"}))
    values, touched = cleaner(row)
    assert values == {"subject": "a@example.org", "note": "[EMAIL]", "pages": ["[EMAIL]", "<br>"]}
    assert touched == {"redact email": 2}
    without_marks = Cleaner(CleanSettings(normalise=("html",)), ("pages",), frozenset({"pages"}))
    assert without_marks.emptied(row, without_marks(row).values) == "pages"
