"""Quotes in a text table that were not meant as such: each takes in what stands up to the next, or up to the end."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import NamedTuple

from heliostat.errors import DataError


class Quoting(NamedTuple):
    """How cells are quoted. A cell is quoted only where the quote is its first character; a doubled one is itself."""

    delimiter: str
    quote: str
    encoding: str
    has_header: bool


def runaways(path: Path, name: str, quoting: Quoting) -> dict[int, int]:
    """Number of a record -> its lines, for each record with a quoted cell of several lines that goes on behind its end.

    What opened there is hardly a quote: the next one in the file, mostly the first of another cell, has closed it.
    Reads the whole file, line by line, unpacked as tables are. Raises DataError when a quote is still open at its end.
    """
    import pyarrow as pa

    scan = _Scan(quoting)
    found: dict[int, int] = {}
    record, first = (0 if quoting.has_header else 1), 1
    is_runaway = False
    codec = "utf-8-sig" if quoting.encoding == "utf-8" else quoting.encoding
    with pa.input_stream(path) as content, io.TextIOWrapper(content, encoding=codec, errors="replace") as file:
        for number, line in enumerate(file, 1):
            if quoting.quote in line:
                is_runaway |= scan.take(number, line)
            if scan.opened:
                continue
            if is_runaway:
                found[record] = number - first + 1
            if number > first or line != "\n":  # blank lines are no records
                record += 1
            first, is_runaway = number + 1, False
    if scan.opened:
        raise DataError(
            f"{name}: the quote {quoting.quote} that opens a cell on line {scan.opened} is never closed, so all that "
            f"follows would be one cell. Close it, or read quotes as any character: data.source={name}#quote=none."
        )
    return found


class _Scan:
    """Goes from quote to quote, as the reader of tables does."""

    def __init__(self, quoting: Quoting) -> None:
        delimiter, self._quote = re.escape(quoting.delimiter), quoting.quote
        self._opens = re.compile(f"(?:^|{delimiter}){re.escape(quoting.quote)}")
        self._ends = re.compile(f" *(?:{delimiter}|$)")
        self.opened = 0
        """The line on which the open quote stands; 0 where none is open."""

    def take(self, number: int, line: str) -> bool:
        """Whether a quote that an earlier line opened is closed here in the midst of a cell."""
        place, is_runaway = 0, False
        while True:
            if not self.opened:
                opening = self._opens.search(line, place)
                if opening is None:
                    return is_runaway
                self.opened, place = number, opening.end()
            place = line.find(self._quote, place)
            while place >= 0 and line[place + 1 : place + 2] == self._quote:
                place = line.find(self._quote, place + 2)
            if place < 0:
                return is_runaway
            place += 1
            is_runaway |= self.opened < number and not self._ends.match(line, place)
            self.opened = 0
