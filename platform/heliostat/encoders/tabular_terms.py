"""What the settings of a table name: a field, a part of one, or several read together; and how its value is read.

amount            the field itself
guaranteed/amount a number divided by another
industry:2        the first 2 characters of a category
city+state        categories read together, as one
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import date, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from heliostat.component import Row
from heliostat.errors import DataError

NUMBER = r"^[A-Za-z_]\w*(/[A-Za-z_]\w*)?$"
CATEGORY = r"^[A-Za-z_]\w*(:[1-9]\d?)?(\+[A-Za-z_]\w*(:[1-9]\d?)?)*$"
DAYS_PER_YEAR = 365.25

_WORD = re.compile(r"\w+")


class Part(NamedTuple):
    """A field of a category, or the first characters of one."""

    field: str
    length: int | None


@lru_cache(maxsize=1024)
def category_parts(term: str) -> tuple[Part, ...]:
    """The parts of a category term, as `zip:3+state`."""
    cut = [piece.partition(":") for piece in term.split("+")]
    return tuple(Part(field, int(length) if length else None) for field, _, length in cut)


def fields_of(term: str) -> tuple[str, ...]:
    """The fields that a term of either form reads."""
    return tuple(part.field for part in category_parts(term.replace("/", "+")))


def read_category(parts: Iterable[Part], row: Row) -> str | None:
    """The value of a category term; None where a part is missing. Case and outer space do not count."""
    read = [_plain(row.get(part.field), part) for part in parts]
    return None if None in read else "\x1f".join(str(each) for each in read)


def _plain(value: Any, part: Part) -> str | None:
    if value is None:
        return None
    if isinstance(value, (list, dict)):
        raise DataError(f"'{part.field}' is read as a category, which is one plain value; found a {_kind(value)}.")
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text.strip().casefold()[: part.length] or None


def read_number(term: str, row: Row) -> float:
    """The value of a number term; NaN where it is missing, infinite, or divided by nothing or by 0.

    Raises DataError for what is no number.
    """
    above, _, below = term.partition("/")
    value = _number(row.get(above), above)
    if not below:
        return value
    by = _number(row.get(below), below)
    return value / by if by else math.nan


def _number(value: Any, field: str) -> float:
    if value is None or value == "":
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise DataError(f"'{field}' is read as a number; found a {_kind(value)} that is none.") from None
    except OverflowError:  # a whole number beyond all doubles
        return math.nan
    return number if math.isfinite(number) else math.nan


def read_day(field: str, row: Row) -> date | None:
    """The day of a date, a time, or a text as `2004-10-01`; None where it is missing. Raises DataError for others."""
    value = row.get(field)
    if value is None or value == "":
        return None
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(str(value)[:10])
    except ValueError:
        raise DataError(f"'{field}' is read as a date in the form YYYY-MM-DD; found a {_kind(value)}.") from None


def read_words(field: str, row: Row, most: int) -> list[str]:
    """The words of a text in small letters, up to `most`; none where it is missing."""
    value = row.get(field)
    return [] if value is None else _WORD.findall(str(value).casefold())[:most]


def _kind(value: Any) -> str:
    return type(value).__name__
