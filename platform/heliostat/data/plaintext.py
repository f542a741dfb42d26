"""Plain text files: a record is the whole file, a block between blank lines, or a line."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Literal

from heliostat.component import Row
from heliostat.data.delimited import undecodable_byte
from heliostat.data.packed import unpacked
from heliostat.errors import DataError

Documents = Literal["file", "block", "line"]
COLUMN = "text"
"""The one column of a text file."""


def rows(path: Path, name: str, encoding: str, documents: Documents) -> Iterator[tuple[int, Row]]:
    """The documents of a file in order, numbered by the lines from 1 on which they begin.

    Raises DataError when the file is not in `encoding`.
    """
    codec = "utf-8-sig" if encoding == "utf-8" else encoding
    try:
        with unpacked(path) as content, io.TextIOWrapper(content, encoding=codec) as file:
            if documents == "file":
                yield 1, {COLUMN: file.read()}
            else:
                yield from _blocks(file) if documents == "block" else _lines(file)
    except UnicodeError:
        raise undecodable_byte(path, name, encoding) or DataError(f"{name}: is not {encoding}.") from None


def _lines(file: Iterable[str]) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(file, 1):
        if not line.isspace():
            yield number, {COLUMN: line.rstrip("\n")}


def _blocks(file: Iterable[str]) -> Iterator[tuple[int, Row]]:
    for is_blank, block in groupby(enumerate(file, 1), key=lambda numbered: numbered[1].isspace()):
        if not is_blank:
            lines = list(block)
            yield lines[0][0], {COLUMN: "".join(line for _, line in lines).rstrip("\n")}
