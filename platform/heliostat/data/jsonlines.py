"""JSON lines: one object a line."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from heliostat.component import Row
from heliostat.data.delimited import undecodable_byte
from heliostat.data.packed import unpacked
from heliostat.errors import DataError, RejectedRecord

_KINDS = {str: "string", int: "int64", float: "double", bool: "bool", dict: "struct", list: "list", type(None): "null"}


def columns(path: Path, name: str, encoding: str) -> dict[str, str]:
    """Every key that any line has, with what it holds. Reads the whole file. Raises DataError as `rows` does."""
    kinds: dict[str, str] = {}
    for _, row in rows(path, name, encoding):
        if isinstance(row, RejectedRecord):
            continue
        for key, value in row.items():
            kinds[key] = _joined(kinds.get(key, "null"), _kind(value))
    return kinds


def _kind(value: Any) -> str:
    return "mixed" if type(value) is int and not -(2**63) <= value < 2**63 else _KINDS[type(value)]


def _joined(known: str, kind: str) -> str:
    if known == kind or "null" in (known, kind):
        return kind if known == "null" else known
    return "double" if {known, kind} == {"int64", "double"} else "mixed"


def rows(path: Path, name: str, encoding: str) -> Iterator[tuple[int, Row | RejectedRecord]]:
    """The objects in order, numbered by their lines from 1; a line that holds none is there as RejectedRecord.

    Raises DataError when the file is not in `encoding`.
    """
    codec = "utf-8-sig" if encoding == "utf-8" else encoding
    try:
        with unpacked(path) as content, io.TextIOWrapper(content, encoding=codec, newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _parsed(line)
    except UnicodeError:
        raise undecodable_byte(path, name, encoding) or DataError(f"{name}: is not {encoding}.") from None


def _parsed(line: str) -> Row | RejectedRecord:
    try:
        value = json.loads(line, object_pairs_hook=_unique, parse_constant=lambda _: None)
    except json.JSONDecodeError as error:
        return RejectedRecord(f"the line is no JSON ({error.msg}, column {error.colno})")
    except (ValueError, RecursionError):
        return RejectedRecord("the line names a key twice, or nests too deep")
    return value if isinstance(value, dict) else RejectedRecord("the line is no JSON object")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands twice")
    return values
