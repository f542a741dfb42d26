"""Where the predictions of a file go: csv, JSON lines or parquet; a file appears under its name when it is whole."""

from __future__ import annotations

import csv
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, ClassVar

from heliostat.component import Row
from heliostat.errors import DataError

ADDED = "predicted_"
"""What the name of every predicted column starts with."""

PROBLEM = "prediction_problem"
"""The column that says why a row has no prediction; empty where it has one."""

Answers = Sequence[tuple[Row, Row | None, str]]
"""(the row as it was read, its prediction or None, the problem or '')."""


class Sink(ABC):
    """An output file that takes chunks of answered rows."""

    is_typed: ClassVar[bool] = True
    """Whether columns have types there; where not, cells pass through as they were written."""

    def __init__(self, path: Path, kinds: dict[str, str], schema: Any = None) -> None:
        self.path = path
        self.kinds = kinds
        self.schema = schema
        """Arrow's schema of the source, where it has one."""

    @abstractmethod
    def write(self, answers: Answers) -> None:
        """Append a chunk."""

    @abstractmethod
    def close(self) -> None:
        """Write what is held back and end the file."""


class JsonLines(Sink):
    """One object a line; nested predictions stay nested."""

    def __init__(self, path: Path, kinds: dict[str, str], schema: Any = None) -> None:
        super().__init__(path, kinds, schema)
        self._file: IO[str] = path.open("w", encoding="utf-8")

    def write(self, answers: Answers) -> None:
        """Append a chunk."""
        for row, prediction, problem in answers:
            added = {f"{ADDED}{name}": value for name, value in (prediction or {}).items()}
            line = {**row, **added, **({PROBLEM: problem} if problem else {})}
            text = json.dumps(line, ensure_ascii=False, default=str)
            self._file.write((text if unicode(text) == text else json.dumps(line, default=str)) + "\n")

    def close(self) -> None:
        """End the file."""
        self._file.close()


class _Table(Sink):
    """Rows with the same columns in all; chunks without any prediction wait until one shows its columns."""

    def __init__(self, path: Path, kinds: dict[str, str], schema: Any = None) -> None:
        super().__init__(path, kinds, schema)
        self._waiting: list[tuple[Row, Row | None, str]] = []
        self._columns: list[str] | None = None

    def write(self, answers: Answers) -> None:
        """Append a chunk."""
        self._waiting.extend(answers)
        if self._columns is None:
            first = next((prediction for _, prediction, _ in answers if prediction is not None), None)
            if first is None:
                return
            self._columns = [*self.kinds, *flat(first), PROBLEM]
        self._flush()

    def close(self) -> None:
        """Write what is held back and end the file."""
        if self._columns is None:
            self._columns = [*self.kinds, PROBLEM]
        self._flush()
        self._end()

    def _flush(self) -> None:
        rows = [{**row, **flat(prediction or {}), PROBLEM: problem} for row, prediction, problem in self._waiting]
        self._waiting = []
        self._append([{name: row.get(name) for name in self._columns or ()} for row in rows])

    @abstractmethod
    def _append(self, rows: list[Row]) -> None: ...

    @abstractmethod
    def _end(self) -> None: ...


class Csv(_Table):
    """A table with a header line, in UTF-8."""

    is_typed: ClassVar[bool] = False

    def __init__(self, path: Path, kinds: dict[str, str], schema: Any = None) -> None:
        super().__init__(path, kinds, schema)
        self._file: IO[str] = path.open("w", encoding="utf-8", newline="")
        self._writer: csv.DictWriter[str] | None = None

    def _append(self, rows: list[Row]) -> None:
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, self._columns or ())
            self._writer.writeheader()
        self._writer.writerows(
            {name: "" if value is None else unicode(_cell(value)) for name, value in row.items()} for row in rows
        )

    def _end(self) -> None:
        self._file.close()


def _cell(value: Any) -> str:
    """A value as text: itself, or as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


class Parquet(_Table):
    """A parquet file; the types of its columns are those of the source, and else those of the first chunk.

    Objects become JSON text where no schema says what they hold: each may have keys of its own (the most probable words
    of a blank), and a type made of the first ones would drop the others without a word. So do values of several kinds.
    """

    def __init__(self, path: Path, kinds: dict[str, str], schema: Any = None) -> None:
        super().__init__(path, kinds, schema)
        self._writer: Any = None

    def _append(self, rows: list[Row]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        columns = {name: [unicode(row[name]) for row in rows] for name in self._columns or ()}
        try:
            if self._writer is None:
                self._writer = parquet.ParquetWriter(self.path, self._schema(columns))
            schema = self._writer.schema
            columns = {name: _of_type(values, schema.field(name).type) for name, values in columns.items()}
            self._writer.write_table(pa.table(columns, schema=schema))
        except (ValueError, TypeError, OverflowError, NotImplementedError) as error:  # Arrow's are subclasses of these
            raise DataError(f"a column holds values of several types ({error}). Write to a .jsonl file.") from error

    def _schema(self, columns: dict[str, list[Any]]) -> Any:
        """What the source tells of its columns, and for the others what the first chunk shows."""
        import pyarrow as pa

        text = pa.string()
        known = {"int64": pa.int64(), "double": pa.float64(), "bool": pa.bool_()}
        known |= dict.fromkeys(("string", "struct", "mixed"), text)
        fields = []
        for name, values in columns.items():
            found = self._told(name) or known.get(self.kinds.get(name, "")) or pa.array(values).type
            is_text = pa.types.is_null(found) or (self._told(name) is None and _is_open(found))
            fields.append(pa.field(name, text if is_text else found))
        return pa.schema(fields)

    def _told(self, name: str) -> Any:
        """The type of a column in the source; None where it has no types."""
        return None if self.schema is None or name not in self.kinds else self.schema.field(name).type

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _is_open(kind: Any) -> bool:
    """Whether a type says too little of what later chunks may hold: objects, or lists that are empty so far."""
    import pyarrow as pa

    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_struct(kind) or pa.types.is_null(kind))


def _of_type(values: list[Any], kind: Any) -> list[Any]:
    """The values as a text column takes them: what is no text there is written as JSON."""
    if str(kind) != "string":
        return values
    return [value if value is None or isinstance(value, str) else unicode(_cell(value)) for value in values]


def unicode(value: Any) -> Any:
    """A text that can be written: half a surrogate pair becomes `?`."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


_SINKS: dict[str, type[Sink]] = {".csv": Csv, ".jsonl": JsonLines, ".ndjson": JsonLines, ".parquet": Parquet}


def sink_of(out: Path) -> type[Sink]:
    """The sink for a file's ending. Raises DataError for one that names no format."""
    if out.suffix not in _SINKS:
        raise DataError(f"--out {out}: its ending tells no format. There are: {', '.join(_SINKS)}.")
    return _SINKS[out.suffix]


@contextmanager
def open_sink(out: Path, kinds: dict[str, str], schema: Any = None) -> Iterator[Sink]:
    """A sink that becomes the file `out` when the block ends well, and leaves nothing behind when it does not.

    `kinds` are the columns of the source with what they hold; `schema` is Arrow's, of a source that has one. Raises
    DataError for an ending that names no format.
    """
    kind = sink_of(out)
    with staged(out) as path:
        sink = kind(path, kinds, schema)
        try:
            yield sink
        finally:
            sink.close()


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A path to write that becomes the file `out` when the block ends well, and is gone when it does not.

    Raises DataError when it cannot be written.
    """
    path = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield path
        path.replace(out)
    except OSError as error:
        raise DataError(f"--out {out} cannot be written: {error.strerror or error}.") from error
    finally:
        path.unlink(missing_ok=True)


def flat(prediction: Row, name: str = ADDED) -> Row:
    """A prediction as plain columns: `predicted_label`, `predicted_probabilities.positive`."""
    columns: Row = {}
    for key, value in prediction.items():
        if isinstance(value, dict):
            columns.update(flat(value, f"{name}{key}."))
        else:
            columns[f"{name}{key}"] = value
    return columns
