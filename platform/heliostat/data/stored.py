"""Examples on disk between reading and encoding: parquet with the example as JSON, written and read as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from heliostat.component import Row
from heliostat.data.rejects import Place

T = TypeVar("T")

_ROWS = 4096


class Stored(NamedTuple):
    """One example as `examples/<split>.parquet` holds it."""

    id: int
    place: Place
    example: str
    """The example's fields as JSON."""
    carried: str
    """What it carries for splits and slices, as JSON."""

    @property
    def values(self) -> Row:
        """The example's fields."""
        row: Row = json.loads(self.example)
        return row


class StoredWriter:
    """Writes examples to one parquet file as they come; used in a `with` block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0

    def __enter__(self) -> Self:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        self.path.parent.mkdir(parents=True, exist_ok=True)
        text, whole = pa.string(), pa.int64()
        self._schema = pa.schema(
            [("id", pa.uint64()), ("file", text), ("row", whole), ("example", text), ("carried", text)]
        )
        self._file = parquet.ParquetWriter(self.path, self._schema)
        self._pending: list[Stored] = []
        return self

    def add(self, stored: Stored) -> None:
        """Append one example."""
        self._pending.append(stored)
        self.count += 1
        if len(self._pending) == _ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        rows = [(row.id, row.place.file, row.place.row, row.example, row.carried) for row in self._pending]
        columns: Any = zip(*rows, strict=True) if rows else ([], [], [], [], [])
        self._file.write_table(pa.table([list(column) for column in columns], schema=self._schema))
        self._pending = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._file.close()


def read_stored(path: Path, row_groups: Sequence[int] | None = None) -> Iterator[Stored]:
    """The examples of one file, or of some of its row groups, in order."""
    import pyarrow.parquet as parquet

    # Without `pre_buffer=False` the reader fetches all row groups first and holds them to the end.
    with parquet.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=_ROWS, row_groups=row_groups):
            for id, name, row, example, carried in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield Stored(id, Place(name, row), example, carried)


def num_row_groups(path: Path) -> int:
    """The row groups of one file."""
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        return int(file.num_row_groups)


def num_rows(path: Path) -> int:
    """The examples of one file."""
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        return int(file.metadata.num_rows)


def read_values(path: Path) -> Iterator[Row]:
    """The fields of the examples of one file, in order."""
    return (stored.values for stored in read_stored(path))


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`; the last one may be shorter."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
