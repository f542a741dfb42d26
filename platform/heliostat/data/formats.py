"""File formats: the columns and the raw records of one csv, tsv, jsonl, parquet, arrow, text or xml file."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import field_validator

from heliostat.component import Row, Settings, closest
from heliostat.data import delimited, jsonlines, plaintext, xml
from heliostat.errors import DataError, RejectedRecord, told

Format = Literal["csv", "tsv", "jsonl", "parquet", "arrow", "text", "xml"]
Numbered = Iterator[tuple[int, Row | RejectedRecord]]
"""Records with their numbers from 1; a record that cannot be read stands there as the error that says why."""

SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
    ".txt": "text",
    ".xml": "xml",
    ".nxml": "xml",
}
_UNREADABLE = (OSError, EOFError, zlib.error)
"""What reading a file raises that is gone, refused, or a torn gzip."""

_DELIMITERS = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}
_ROWS = 4096
_BUFFER_BYTES = 2**20
"""Of a column of a parquet file that are read at once."""


class Options(Settings):
    """How the files of a source are read: `reviews.csv#delimiter=semicolon&encoding=latin-1`."""

    sha256: str | None = None
    """The hash that a fetched archive must have: 64 hexadecimal digits."""
    format: Format | None = None
    """What the files are, where their suffix does not say."""
    columns: tuple[str, ...] | None = None
    """Names of the columns of files without a header line."""
    delimiter: str | None = None
    """What stands between cells: `tab`, `comma`, `semicolon`, `pipe`, `space` or one character."""
    quote: Literal["double", "single", "none"] = "double"
    """What cells with a delimiter inside are quoted by."""
    encoding: str = "utf-8"
    """Character encoding of text files."""
    documents: plaintext.Documents | None = None
    """What a record of a `.txt` file is: the whole `file` (so by default), a `block` between blank lines, a `line`."""
    split: str | None = None
    """The split of an `hf:` data set to read; None reads all, and adds a column `split`."""
    file_column: str | None = None
    """A column to add that holds each record's file name without its endings."""
    records: str | None = None
    """The name of the elements of an `.xml` file that are its records; None takes the children of the root."""

    @field_validator("columns", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(value.split(",")) if isinstance(value, str) else value

    @field_validator("delimiter", mode="after")
    @classmethod
    def _character(cls, value: str | None) -> str | None:
        character = _DELIMITERS.get(value, value) if value else value
        if character is not None and len(character) != 1:
            raise ValueError(f"a delimiter is one character, or one of {', '.join(_DELIMITERS)}.")
        return character

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str) -> str:
        import codecs

        try:
            return codecs.lookup(value).name
        except LookupError:
            raise ValueError("no such encoding; there are utf-8, latin-1, cp1252, utf-16 and more.") from None

    def dialect(self, format: Format) -> delimited.Dialect:
        """How a text table is cut into cells."""
        quote: dict[str, str | None] = {"double": '"', "single": "'", "none": None}
        delimiter = self.delimiter or ("\t" if format == "tsv" else ",")
        return delimited.Dialect(delimiter, quote[self.quote], self.encoding, self.columns)


class SourceFile(NamedTuple):
    """One file of a source."""

    path: Path
    name: str
    """What it is called in places and messages."""
    format: Format


def format_of(path: Path, options: Options) -> Format | None:
    """The format that the options or the suffixes tell (`.parquet.brotli` is parquet), or None."""
    known = [SUFFIXES[suffix] for suffix in path.suffixes if suffix in SUFFIXES]
    return options.format or (known[-1] if known else None)


def columns_of(file: SourceFile, options: Options) -> dict[str, str]:
    """Column names with what they hold.

    Raises DataError when the file is empty, damaged, names a column twice or cannot be read.
    """
    try:
        return _columns_of(file, options)
    except _UNREADABLE as error:
        raise _unread(file, error) from error


def _columns_of(file: SourceFile, options: Options) -> dict[str, str]:
    if file.format == "text":
        return {plaintext.COLUMN: "string"}
    if file.path.stat().st_size == 0:
        raise DataError(f"{file.name}: the file is empty. It needs records to learn from.")
    if file.format in ("csv", "tsv"):
        columns = delimited.columns(file.path, file.name, options.dialect(file.format))
    elif file.format == "jsonl":
        return jsonlines.columns(file.path, file.name, options.encoding)
    elif file.format == "xml":
        return xml.columns(file.path, file.name, options.records)
    else:
        columns = _reading(file, lambda: _arrow_columns(file))
    names = [name for name, _ in columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{file.name}: the column '{twice[0]}' stands twice. Rename or drop one of them.")
    return dict(columns)


def rows_of(file: SourceFile, options: Options, types: dict[str, str]) -> Numbered:
    """The records of one file. `types` says what the columns hold over all files of the source.

    Raises DataError when the file is damaged or cannot be read.
    """
    try:
        yield from _rows_of(file, options, types)
    except _UNREADABLE as error:
        raise _unread(file, error) from error


def _unread(file: SourceFile, error: Exception) -> DataError:
    if isinstance(error, OSError) and error.errno:
        return DataError(told(error, file.path))
    return DataError(f"{file.name}: cannot be read ({error}). Make or fetch it anew.")


def _rows_of(file: SourceFile, options: Options, types: dict[str, str]) -> Numbered:
    if file.format in ("csv", "tsv"):
        yield from delimited.rows(file.path, file.name, options.dialect(file.format), types)
    elif file.format == "jsonl":
        yield from jsonlines.rows(file.path, file.name, options.encoding)
    elif file.format == "text":
        yield from plaintext.rows(file.path, file.name, options.encoding, options.documents or "file")
    elif file.format == "xml":
        yield from xml.rows(file.path, file.name, options.records)
    else:
        batches = _arrow_batches(file)
        number = 0
        while (batch := _reading(file, lambda: next(batches, None))) is not None:
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _reading(file: SourceFile, read: Callable[[], Any]) -> Any:
    """What `read` gives. Raises DataError when the file is no readable parquet or arrow file."""
    try:
        return read()
    except (OSError, ValueError) as error:  # Arrow's own errors are subclasses of these
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{file.name}: not a readable {file.format} file ({reason}). Make or fetch it anew.") from None


def schema_of(file: SourceFile) -> Any:
    """Arrow's schema of a parquet or arrow file; None for other formats. Raises DataError when the file is damaged."""
    return _reading(file, lambda: _arrow_schema(file)) if file.format in ("parquet", "arrow") else None


def _arrow_columns(file: SourceFile) -> list[tuple[str, str]]:
    schema = _arrow_schema(file)
    return [(name, str(kind)) for name, kind in zip(schema.names, schema.types, strict=True)]


def _arrow_schema(file: SourceFile) -> Any:
    if file.format == "parquet":
        import pyarrow.parquet as parquet

        return parquet.read_schema(file.path)
    with _open_arrow(file.path) as reader:
        return reader.schema


def _arrow_batches(file: SourceFile) -> Iterator[Any]:
    if file.format == "parquet":
        import pyarrow.parquet as parquet

        # Column by column as it is read: others write files of one row group, and buffered ahead that is all of it.
        with parquet.ParquetFile(file.path, pre_buffer=False, buffer_size=_BUFFER_BYTES) as reader:
            yield from reader.iter_batches(batch_size=_ROWS)
        return
    with _open_arrow(file.path) as reader:
        if hasattr(reader, "num_record_batches"):
            yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            yield from reader


def _open_arrow(path: Path) -> Any:
    """A reader of either of Arrow's two forms: the file with a footer, or the stream."""
    import pyarrow as pa

    try:
        return pa.ipc.open_file(pa.memory_map(str(path)))
    except pa.ArrowInvalid:
        return pa.ipc.open_stream(pa.memory_map(str(path)))


def parse_options(text: str, source: str) -> Options:
    """The options behind the `#` of a source. Raises DataError naming a mistake and the option that was meant."""
    from pydantic import ValidationError

    pairs = [part.partition("=") for part in text.split("&") if part]
    for key, sign, _ in pairs:
        if key not in Options.model_fields or not sign:
            guess = closest(key, list(Options.model_fields))
            hint = f"Did you mean '{guess}'?" if guess else f"There are: {', '.join(Options.model_fields)}."
            raise DataError(f"data.source={source}: '{key}' is no option of a source. {hint}")
    try:
        return Options.model_validate({key: value for key, _, value in pairs})
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        raise DataError(f"data.source={source}: {detail['loc'][0]}: {detail['msg']}") from None
