"""Why most records of a source are rejected, where one cause explains it."""

from __future__ import annotations

from collections.abc import Iterable

from heliostat.data.examples import ExampleMaker
from heliostat.data.missing import guess_column
from heliostat.data.rejects import Tally
from heliostat.data.sources import Source
from heliostat.errors import RejectedRecord

_NEARLY_ALL = 0.9
"""Share of the records from which a missing field is the run's fault and not the records'."""


def empty_columns(source: Source, columns: Iterable[str]) -> set[str]:
    """Those of the columns that hold nothing in any record. Reads until each has shown a value."""
    left = set(columns)
    for _, row in source.rows():
        if not isinstance(row, RejectedRecord):
            left -= {name for name in left if row[name] is not None}
        if not left:
            break
    return left


def diagnose(source: Source, maker: ExampleMaker, tally: Tally) -> str:
    """A sentence that names the cause and the way out, or nothing when there is no single one."""
    named = {column: f"data.adapter.{setting}" for setting, column in maker.adapter.columns().items()}
    for column in sorted(empty_columns(source, [name for name in named if name in maker.columns])):
        there = ", ".join(maker.columns)
        return f"{named[column]}: the column '{column}' is empty in every record. Choose another of: {there}."
    top, count = tally.reasons.most_common(1)[0]
    field, _, rest = top.partition(": ")
    if rest == "is missing" and field not in maker.columns and count >= _NEARLY_ALL * (tally.examples or tally.records):
        guess = guess_column(field, maker.columns)
        hint = f" Did you mean the column '{guess}'? With core.columns: data.adapter.{field}={guess}." if guess else ""
        there = f" The source's columns: {', '.join(maker.columns)}."
        return f"The examples have no '{field}', which the head needs.{hint}{there}"
    return ""
