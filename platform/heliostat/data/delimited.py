"""Text tables (csv, tsv): cells in rows, with the types that hold for a whole column."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from heliostat.component import Row
from heliostat.data.packed import refuse_packed, unpacked
from heliostat.data.quotes import Quoting, runaways
from heliostat.errors import DataError, RejectedRecord

_BLOCK = 1 << 24
"""Bytes read at once; one record must fit in it."""

_ARROW_UNPACKS = (".bz2", ".lz4", ".zst")
"""Beside .gz; of what is in such a file Arrow alone can tell."""

_PADDED_NUMBER = r"^[-+]?0\d|^0[xX]|\s|[nN]"
"""What is no number for us: `007` is a name, `0x10` a code, and `nan` and `inf` are words."""

_LONG_WHOLE = r"^[+-]?[0-9]{16,}$"
_LINE = re.compile(r"[^\r\n]+")
_EXACT = 2**53
"""Up to here a double holds every whole number."""


class Dialect(NamedTuple):
    """How a text table is cut into cells."""

    delimiter: str
    quote: str | None
    encoding: str
    columns: tuple[str, ...] | None
    """Names of the columns where the file has no header line; None reads them from its first line."""


class _Ragged(NamedTuple):
    """A row with more or fewer cells than there are columns."""

    number: int
    expected: int
    found: int
    lines: int


def columns(path: Path, name: str, dialect: Dialect) -> list[tuple[str, str]]:
    """Column names with `int64`, `double` or `string`, whichever holds every cell. Reads the whole file.

    Raises DataError when the file is empty, is not in the dialect's encoding, or has no header.
    """
    names = _names(path, name, dialect)
    if len(set(names)) < len(names):
        return [(column, "string") for column in names]  # refused by the caller
    kinds: dict[str, str] = dict.fromkeys(names, "null")
    for batch in _batches(_open(path, name, dialect, [], names=names), path, name, dialect):
        for column in names:
            kinds[column] = _widened(kinds[column], _without_blanks(batch.column(column)))
    return [(column, "int64" if kind == "ids" else kind) for column, kind in kinds.items()]


def rows(path: Path, name: str, dialect: Dialect, types: dict[str, str]) -> Iterator[tuple[int, Row | RejectedRecord]]:
    """The records in order, numbered from 1 (the header does not count).

    A ragged row is there as RejectedRecord, as is one with a quote that was none. Raises DataError when a quote is not
    closed, when a part cannot be decoded or parsed, and for a number that a `double` cannot hold.
    """
    import pyarrow as pa

    quoting = Quoting(dialect.delimiter, dialect.quote or "", dialect.encoding, dialect.columns is None)
    torn = runaways(path, name, quoting) if dialect.quote else {}
    ragged: list[_Ragged] = []
    names = _names(path, name, dialect)
    number = taken = 0
    for batch in _batches(_open(path, name, dialect, ragged, names=names), path, name, dialect):
        cells = {column: _without_blanks(batch.column(column)) for column in names}
        for column, kind in types.items():
            if column in cells and kind in ("int64", "double"):
                numbers = cells[column].cast(pa.type_for_alias(kind))
                if kind == "double" and _loses(cells[column], numbers):  # where other files have fractions
                    raise DataError(
                        f"{name}: the column '{column}' holds whole numbers of more digits than a number with a "
                        "fraction keeps, which the other files have there. Give all files whole numbers, or texts."
                    )
                cells[column] = numbers
        for row in pa.RecordBatch.from_pydict(cells).to_pylist():
            number += 1
            while taken < len(ragged) and ragged[taken].number <= number:
                yield number, _refused(ragged[taken])
                number, taken = number + 1, taken + 1
            yield number, _swallowed(torn[number]) if number in torn else row
    for late in ragged[taken:]:
        yield late.number, _refused(late)


def _without_blanks(cells: Any) -> Any:
    """The cells with null for each that holds nothing but space."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(cells), ""), pa.scalar(None, pa.string()), cells)


def _refused(row: _Ragged) -> RejectedRecord:
    reason = f"the row has {row.found} cells where there are {row.expected} columns"
    if row.lines > 1:
        reason += ", and several lines: a quote is probably not closed"
    return RejectedRecord(reason, row.lines)


def _swallowed(lines: int) -> RejectedRecord:
    return RejectedRecord("a quoted cell of several lines goes on behind its end: what opens it is no quote", lines)


def _widened(kind: str, cells: Any) -> str:
    """The narrowest type that holds what `kind` held and these cells: null < int64 < ids < double < string.

    Ids are int64 of more digits than a double keeps: beside fractions they are text, so that none becomes another.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if kind == "string" or cells.null_count == len(cells):
        return kind
    if pc.any(pc.match_substring_regex(cells, _PADDED_NUMBER)).as_py():
        return "string"
    for wider in ("double",) if kind == "double" else ("int64", "double"):
        try:
            numbers = cells.cast(pa.type_for_alias(wider))
        except pa.ArrowInvalid:
            continue
        if wider == "int64":
            return "ids" if kind == "ids" or _is_long(numbers) else "int64"
        return "string" if kind == "ids" or _loses(cells, numbers) else "double"
    return "string"


def _is_long(numbers: Any) -> bool:
    import pyarrow.compute as pc

    ends = pc.min_max(numbers).as_py()
    return bool(ends["min"] < -_EXACT or ends["max"] > _EXACT)


def _loses(cells: Any, numbers: Any) -> bool:
    """Whether doubles say something else than the cells: whole numbers become others, or large ones infinite.

    Fractions are rounded, as measurements are that a program wrote with all digits it had.
    """
    import pyarrow.compute as pc

    if pc.any(pc.is_inf(numbers)).as_py():
        return True
    whole = cells.filter(pc.match_substring_regex(cells, _LONG_WHOLE)).to_pylist()
    return any(int(cell) != float(cell) for cell in whole)


def _names(path: Path, name: str, dialect: Dialect) -> list[str]:
    """The columns' names, from the first line or the dialect."""
    try:
        return list(_open(path, name, dialect, []).schema.names)
    except UnicodeDecodeError as error:
        raise _explained(error, path, name, dialect) from None


def _open(
    path: Path,
    name: str,
    dialect: Dialect,
    ragged: list[_Ragged],
    *,
    names: list[str] | None = None,
) -> Any:
    """A reader of batches; rows with another count of cells are left out and noted in `ragged`."""
    import pyarrow as pa
    from pyarrow import csv

    first = 0 if dialect.columns else 1

    def note(row: Any) -> str:
        lines = len(_LINE.findall(row.text or "")) or 1
        ragged.append(_Ragged(row.number - first, row.expected_columns, row.actual_columns, lines))
        return "skip"

    try:
        return csv.open_csv(
            path,
            read_options=csv.ReadOptions(
                use_threads=False,  # or else rows have no numbers
                block_size=_BLOCK,
                encoding="utf8" if dialect.encoding == "utf-8" else dialect.encoding,
                column_names=list(dialect.columns) if dialect.columns else None,
            ),
            parse_options=csv.ParseOptions(
                delimiter=dialect.delimiter,
                quote_char=dialect.quote or False,
                newlines_in_values=dialect.quote is not None,
                invalid_row_handler=note,
            ),
            convert_options=csv.ConvertOptions(
                column_types={column: pa.string() for column in names} if names else None,
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
                null_values=[""],
            ),
        )
    except (pa.ArrowInvalid, UnicodeError) as error:
        raise _explained(error, path, name, dialect) from None


def _batches(reader: Any, path: Path, name: str, dialect: Dialect) -> Iterator[Any]:
    """The reader's batches. Raises DataError when a part cannot be decoded or parsed."""
    import pyarrow as pa

    try:
        yield from reader
    except (pa.ArrowInvalid, UnicodeError) as error:
        raise _explained(error, path, name, dialect) from None


def _explained(error: Exception, path: Path, name: str, dialect: Dialect) -> DataError:
    undecodable = None if path.suffix in _ARROW_UNPACKS else undecodable_byte(path, name, dialect.encoding)
    if undecodable:
        return undecodable
    reason = str(error).splitlines()[0]
    if "Empty CSV" in reason:
        return DataError(f"{name}: the file is empty. It needs a header line and records.")
    return DataError(f"{name}: not a readable table ({reason}). Check its delimiter and quotes.")


def undecodable_byte(path: Path, name: str, encoding: str) -> DataError | None:
    """The error that says where a text file leaves its encoding and which one would read it; None where it does not.

    Raises DataError for a file that is packed.
    """
    refuse_packed(path, name)
    decoder = codecs.getincrementaldecoder(encoding)()
    place = line = 0
    with unpacked(path) as file:
        while True:
            block = file.read(1 << 20)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                at = error.start - pending
                line += block[: max(at, 0)].count(b"\n") + 1
                way_out = f"#encoding={_that_reads(path)}" if encoding == "utf-8" else "#encoding=<its encoding>"
                return DataError(
                    f"{name}: byte {place + at} (line {line}) is not {encoding}. "
                    f"Say which encoding it is in, as in data.source={name}{way_out}, or save the file as UTF-8."
                )
            if not block:
                return None
            place, line = place + len(block), line + block.count(b"\n")


def _that_reads(path: Path) -> str:
    """The encoding that is most likely behind text that is no UTF-8."""
    with unpacked(path) as file:
        start = file.read(1 << 20)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    # Bytes 0x80-0x9f are control characters in latin-1 and quotes and dashes in Windows' cp1252.
    if any(0x80 <= byte <= 0x9F for byte in start):
        try:
            start.decode("cp1252")
        except UnicodeDecodeError:
            return "latin-1"
        return "cp1252"
    return "latin-1"
