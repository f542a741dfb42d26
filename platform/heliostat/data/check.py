"""What `heliostat data check` tells: columns, the mapping, splits, classes, lengths, duplicates, leakage, rejects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from heliostat.data.missing import guess_column
from heliostat.data.prepare import Progress, prepare
from heliostat.data.prepared import Prepared
from heliostat.data.sources import Source, open_source
from heliostat.errors import DataError, RejectedRecord, told
from heliostat.run import Run, build

_COUNTED = 1000
"""Distinct values of a column that are counted; a column with more has `many`."""


class ColumnProfile(NamedTuple):
    """One column of a source, in numbers that show no record."""

    name: str
    holds: str
    """Its type."""
    filled: int
    """Records in which it is not empty."""
    distinct: int | None
    """Different values; None for more than a thousand."""
    shortest: int | None
    longest: int | None
    """Characters, for text."""


class Mapped(NamedTuple):
    """A field or setting and the column it reads."""

    setting: str
    column: str
    there: bool
    guess: str | None
    """The column that was probably meant, where it is not there."""


@dataclass(frozen=True)
class Findings:
    """All that was found out; `problem` is what keeps the data from being prepared."""

    num_records: int
    num_unreadable: int
    columns: list[ColumnProfile]
    mapping: list[Mapped]
    prepared: Prepared | None
    problem: DataError | None
    stats: Mapping[str, Any]
    leakage: Mapping[str, Any]


def inspect(run: Run, *, on_progress: Progress | None = None) -> Findings:
    """Read the source of a run and prepare its data, which a training then finds ready.

    Raises DataError when the source cannot be read at all, or what is prepared of it.
    """
    try:
        return _inspect(run, on_progress)
    except OSError as error:
        if error.errno is None:
            raise
        raise DataError(told(error, run.data.source)) from error


def _inspect(run: Run, on_progress: Progress | None) -> Findings:
    source = open_source(run.data.source)
    columns = source.columns()
    adapter = build(run).adapter
    mapping = [
        Mapped(
            f"data.adapter.{setting}", name, name in columns, None if name in columns else guess_column(name, columns)
        )
        for setting, name in adapter.columns().items()
    ]
    profiles, num_records, num_unreadable = profile(source)
    try:
        prepared = prepare(run, on_progress=on_progress)
    except DataError as error:
        return Findings(num_records, num_unreadable, profiles, mapping, None, error, {}, {})
    stats = json.loads((prepared.folder / "stats.json").read_text(encoding="utf-8"))
    return Findings(num_records, num_unreadable, profiles, mapping, prepared, None, stats, prepared.leakage())


def profile(source: Source) -> tuple[list[ColumnProfile], int, int]:
    """Each column in numbers, the count of records, and of those that cannot be read. One pass over the source."""
    kinds = source.columns()
    gathered = {name: _Gathered() for name in kinds}
    num_records = num_unreadable = 0
    for _, row in source.rows():
        if isinstance(row, RejectedRecord):
            num_unreadable += row.num_records
            continue
        num_records += 1
        for name, value in row.items():
            if value is not None:
                gathered[name].add(value)
    profiles = [found.profile(name, kinds[name]) for name, found in gathered.items()]
    return profiles, num_records + num_unreadable, num_unreadable


class _Gathered:
    """What is known of one column so far."""

    def __init__(self) -> None:
        self.filled = 0
        self.values: set[str] = set()
        self.lengths: tuple[int, int] | None = None

    def add(self, value: Any) -> None:
        self.filled += 1
        if len(self.values) <= _COUNTED:
            self.values.add(str(value))
        if isinstance(value, str):
            low, high = self.lengths or (len(value), len(value))
            self.lengths = (min(low, len(value)), max(high, len(value)))

    def profile(self, name: str, kind: str) -> ColumnProfile:
        distinct = len(self.values) if len(self.values) <= _COUNTED else None
        shortest, longest = self.lengths or (None, None)
        return ColumnProfile(name, kind, self.filled, distinct, shortest, longest)
