"""Raw records -> checked examples: the adapter one group at a time, each example with its place and what it carries."""

from __future__ import annotations

import hashlib
import json
import traceback
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from heliostat.component import Row, as_class
from heliostat.data.clean import NOTHING_LEFT, Cleaner
from heliostat.data.missing import AbsentColumn, missing
from heliostat.data.moments import comparable
from heliostat.data.rejects import Place, Reject
from heliostat.errors import DataError, RejectedRecord
from heliostat.plugin import DataAdapter, TaskHead

BAD_RECORD = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)
"""What a component's code raises over one bad record; it rejects that record and the rest goes on."""


class Example(NamedTuple):
    """One example, with where it comes from and what it carries for splitting and slices."""

    place: Place
    values: Row
    """The fields of the head's record, checked, and its target fields; plain JSON values."""
    carried: Row
    """Columns of the raw record that splits and slices read, where the example does not have them."""
    raw: Row | None = None
    """The fields before cleaning, where it changed any: ids and splits hang on them, so that they do not move."""
    touched: Mapping[str, int] = {}
    """Cleaning step -> how often it changed something."""
    language: str | None = None
    """The language for which it is to be left out."""


@dataclass(frozen=True)
class ExampleMaker:
    """Turns groups of raw records into examples, or rejects with a reason. Pure; it may be sent to other processes."""

    adapter: DataAdapter
    head: TaskHead
    columns: Mapping[str, str]
    """The columns of the source."""
    carried: Mapping[str, str]
    """Field or column that examples must carry -> the setting that asks for it."""
    cleaner: Cleaner | None = None
    """What cleans the texts of the examples."""

    def __call__(self, group: Sequence[tuple[Place, Row]]) -> Iterator[Example | Reject]:
        """The examples of one group. Raises DataError when a column is missing."""
        place, first = group[0]
        try:
            made = list(self.adapter.examples(RawRecord(row) for _, row in group))
        except AbsentColumn as error:
            raise missing({"": error.column}, self.columns, self.adapter) from None
        except RejectedRecord as error:
            yield Reject(place, str(error), len(group))
            return
        except DataError:
            raise
        except BAD_RECORD as error:
            yield Reject(place, where(error), len(group))
            return
        for values in made:
            if not isinstance(values, Mapping):
                wrong = f"{type(self.adapter).__name__}.examples gave a {type(values).__name__}"
                raise DataError(f"{wrong}; an example is a dict with the head's fields.")
            yield self._checked(place, values, first)

    def _checked(self, place: Place, values: Row, record: Row) -> Example | Reject:
        fields = type(self.head).takes.model_fields
        try:
            taken = type(self.head).takes.model_validate({name: values[name] for name in fields if name in values})
            carried = {name: self._carry(name, values, record) for name in self.carried if name not in values}
            absent = [name for name in self.head.target_fields if values.get(name) is None]
            if absent:
                return Reject(place, f"{absent[0]}: is missing")
            # What a request would give the encoder, defaults and conversions included.
            held = with_classes(plain(values | taken.model_dump()), self.head.class_fields)
            return self._cleaned(Example(place, held, plain(carried)))
        except ValidationError as error:
            detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
            key = ".".join(map(str, detail["loc"]))
            gone = detail["type"] == "missing" or values.get(key, 0) is None
            return Reject(place, f"{key}: {'is missing' if gone else detail['msg']}")
        except (TypeError, ValueError) as error:
            return Reject(place, f"the example holds what JSON cannot ({type(error).__name__})")

    def _cleaned(self, example: Example) -> Example | Reject:
        if self.cleaner is None:
            return example
        values, touched = self.cleaner(example.values)
        emptied = self.cleaner.emptied(example.values, values)
        if emptied:
            return Reject(example.place, f"{emptied}: {NOTHING_LEFT}")
        raw = example.values if touched else None
        return example._replace(values=values, raw=raw, touched=touched, language=self.cleaner.other_language(values))

    def _carry(self, name: str, values: Row, record: Row) -> Any:
        if name not in record:
            raise missing({self.carried[name]: name}, {**self.columns, **dict.fromkeys(values, "string")}, self.adapter)
        return record[name]


class RawRecord(dict[str, Any]):
    """A raw record that tells a column it lacks from any other KeyError."""

    def __missing__(self, column: str) -> Any:
        raise AbsentColumn(column)


_PLAIN = {str, int, bool, type(None)}
"""Kinds of values that JSON gives back as they are."""


def plain(values: Mapping[str, Any]) -> Row:
    """The same values as JSON gives them back. Raises ValueError or TypeError for one that JSON cannot hold."""
    if all(type(name) is str and type(value) in _PLAIN for name, value in values.items()):
        for value in values.values():
            if type(value) is str and not value.isascii():
                value.encode("utf-8")  # refuses lone surrogates
        return dict(values)
    text = json.dumps(dict(values), default=_simple, allow_nan=False, ensure_ascii=False)
    text.encode("utf-8")  # refuses lone surrogates
    row: Row = json.loads(text)
    return row


def with_classes(values: Row, fields: Sequence[str]) -> Row:
    """The values, with the names of classes in `fields` as text: what is learned is then what is answered."""
    for name in fields:
        value = values.get(name)
        values[name] = [as_class(each) for each in value] if isinstance(value, list) else as_class(value)
    return values


def _simple(value: Any) -> Any:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def where(error: BaseException) -> str:
    """The error's type and line: its message may hold the record's text."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    return f"{type(error).__name__} in {last.name} ({last.filename.rpartition('/')[2]}, line {last.lineno})"


def needed_columns(slices: Iterable[str], split: Mapping[str, Any]) -> dict[str, str]:
    """The fields or columns that splits and slices read -> the setting that asks for each.

    `split` is the dumped `data.split`.
    """
    asked = [(name, "evaluate.slices") for name in slices]
    for setting in ("column", "key", "order"):
        names = split.get(setting) or ()
        asked += [(name, f"data.split.{setting}") for name in ((names,) if isinstance(names, str) else names)]
    return dict(reversed(asked))


def unusable(place: Place, row: Row | RejectedRecord, group_by: str | None) -> Reject | None:
    """The reject of a raw record that no adapter can be given; None where it can."""
    if isinstance(row, RejectedRecord):
        return Reject(place, str(row), row.num_records)
    if group_by is not None and row[group_by] is None:  # those without a name have nothing in common
        return Reject(place, f"{group_by}: is missing, and records are grouped by it", 1)
    return None


def grouped(
    records: Iterable[tuple[Place, Row]], group_by: str | None, order_by: str | None
) -> Iterator[list[tuple[Place, Row]]]:
    """Whole groups in the order of their first records; one record a group without `group_by`.

    The records of a group are put in order by `order_by`, equal ones by place; None goes first. Raises DataError for
    times that are written so that they cannot be put in order.
    """
    if group_by is None:
        yield from ([record] for record in records)
        return
    groups: dict[Any, list[tuple[Place, Row]]] = {}
    for place, row in records:
        groups.setdefault(row[group_by], []).append((place, row))
    for group in groups.values():
        yield _in_order(group, order_by) if order_by and len(group) > 1 else group


def _in_order(group: list[tuple[Place, Row]], column: str) -> list[tuple[Place, Row]]:
    """The records of a group in order. Values of kinds that do not compare are put in order as text."""
    values = [row[column] for _, row in group]
    kinds = [0 if value is None else 1 if isinstance(value, (int, float, Decimal)) else 2 for value in values]
    texts = [
        value.isoformat() if isinstance(value, date) else str(value)
        for value, kind in zip(values, kinds, strict=True)
        if kind == 2
    ]
    others = iter(comparable(texts, f"the column '{column}', which puts records in order,", are_times=False))
    keys = [
        (kind, next(others) if kind == 2 else value if kind else 0) for kind, value in zip(kinds, values, strict=True)
    ]
    return [group[place] for place in sorted(range(len(group)), key=keys.__getitem__)]


class Identities:
    """Gives each example its id: 64 bits of BLAKE2b over its canonical JSON and the count of equal ones before it."""

    def __init__(self) -> None:
        self._seen = _Numbers()
        self._copies: dict[int, int] = {}
        """The id of an example that was repeated -> how often."""
        self.num_repeated = 0
        """Examples that equal one before them."""

    def __call__(self, values: Row) -> int:
        """The id of the next example: unique, and the same whenever the same examples come in the same order."""
        text = json.dumps(values, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
        digest = hashlib.blake2b(text, digest_size=16).digest()
        first = _copy_id(digest, 0)
        if self._seen.add(first):
            return first
        self.num_repeated += 1
        self._copies[first] = self._copies.get(first, 0) + 1
        return _copy_id(digest, self._copies[first])


def _copy_id(digest: bytes, copy: int) -> int:
    return int.from_bytes(hashlib.blake2b(digest, digest_size=8, salt=copy.to_bytes(16, "little")).digest(), "little")


class _Numbers:
    """A set of 64-bit hashes in 12 to 24 bytes each: one of Python's takes 70 and more, which adds up over a corpus."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 << 10))
        self._mask = len(self._slots) - 1
        self._count = 0

    def add(self, number: int) -> bool:
        """Whether it is new."""
        number = number or 1  # 0 is a slot that is free
        slots, mask = self._slots, self._mask
        place = number & mask
        while slots[place]:
            if slots[place] == number:
                return False
            place = (place + 1) & mask
        slots[place] = number
        self._count += 1
        if 3 * self._count > 2 * len(slots):
            self._grow()
        return True

    def _grow(self) -> None:
        numbers, self._slots = self._slots, array("Q", bytes(16 * len(self._slots)))
        self._mask, self._count = len(self._slots) - 1, 0
        for number in numbers:
            if number:
                self.add(number)
