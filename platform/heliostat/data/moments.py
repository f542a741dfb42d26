"""Values that are to be put in order: times that are written as text are compared as times, or refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from heliostat.errors import DataError

_COARSE = re.compile(r"\d{4}(-\d{2})?")
"""A year or a month, which Python reads as no time."""
_MONTHS = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_SCRAMBLED = re.compile(
    r"\s*\d{1,2}\s?[./-]\s?\d{1,2}\s?[./-]\s?\d{2,4}\b"  # the day or the month first
    r"|\s*\d{4}[./-](?:\d[./-]\d{1,2}|\d{1,2}[./-]\d)\b"  # the year first, and then the 10th before the 9th
    rf"|.*\b\d{{1,2}}[\s.-]*{_MONTHS}\b|.*\b{_MONTHS}[\s.-]*\d{{1,2}}\b",
    re.IGNORECASE,
)
"""Times whose text sorts otherwise than they follow each other."""
_DIGIT = re.compile(r"\d")


def comparable(values: Sequence[Any], what: str, *, are_times: bool = True) -> list[Any]:
    """The values of one column; where all are times (ISO 8601) as text, the times: of several offsets, as instants.

    Other texts stay as they are where they sort as they are meant: all of one form, as `2020Q1` or `00123`. Without
    `are_times` any will do that are written neither as times nor as numbers. Raises DataError for the others, with one
    of them; `what` names the column in it.
    """
    texts = [value for value in values if isinstance(value, str)]
    if not texts or len(texts) < len(values):
        return list(values)
    times = [_time(text) for text in texts]
    aware = [time is not None and time.tzinfo is not None for time in times]
    if any(aware) and not all(aware):
        pair = f"{texts[aware.index(True)]!r} and {texts[aware.index(False)]!r}"
        raise DataError(f"{what} holds times with an offset from UTC beside others ({pair}). Write all in one way.")
    if None not in times:
        return times
    wrong = next((text for text in texts if _SCRAMBLED.match(text)), None) or _odd_one(texts, are_times)
    if wrong is not None:
        raise DataError(
            f"{what} holds {wrong!r}, and such text does not sort as it is meant. Write times as ISO 8601, as "
            "2010-12-01T08:26, and numbers as numbers, or all with as many digits."
        )
    return list(values)


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text + "-01" * (2 - text.count("-")) if _COARSE.fullmatch(text) else text)
    except ValueError:
        return None


def _odd_one(texts: Sequence[str], are_times: bool) -> str | None:
    """A text of another form than the first one; None where there is none, or where words may stand in any form."""
    form = _DIGIT.sub("0", texts[0])
    odd = next((text for text in texts if _DIGIT.sub("0", text) != form), None)
    return odd if are_times or all(text.isdecimal() for text in texts) else None
