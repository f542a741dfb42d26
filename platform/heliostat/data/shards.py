"""Prepared shards: encoded examples as Arrow on disk, and batches gathered from the memory map.

A shard is three files: `<name>.arrow` (Arrow's streaming format, uncompressed, in one record batch: `datasets` opens
it, and a memory map of it shows each column as one flat array), `<name>.length.npy` and `<name>.id.npy` (so that a
batch plan reads nothing but lengths). Rows are numbered through the shards of a folder in the order of their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from heliostat.batch import Batch, Encoded
from heliostat.data.collate import Flat, Kind, kinds_of, num_tokens, pack, to_batch
from heliostat.errors import DataError, told

MAX_VALUES = 2**27
"""Values of one ragged column in a shard: bounds the memory of the writer, and keeps Arrow's 32-bit offsets valid."""


def write_shards(
    encoded: Iterable[tuple[int, Encoded]], folder: Path, *, max_rows: int = 65536, prefix: str = "shard"
) -> None:
    """Write (id, encoded example) pairs into `folder` as shards of up to `max_rows` rows, in order.

    Writers that share a folder take different prefixes. Raises DataError naming the column and the example when one
    does not have the columns of the first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kinds: dict[str, Kind] | None = None
    for number, rows in enumerate(_chunks(encoded, max_rows)):
        kinds = kinds if kinds is not None else kinds_of(rows[0][1], rows[0][0])
        ids = np.array([id for id, _ in rows], dtype=np.uint64)
        _write(folder / f"{prefix}-{number:05d}", ids, pack([example for _, example in rows], ids, kinds))


def _chunks(encoded: Iterable[tuple[int, Encoded]], max_rows: int) -> Iterator[list[tuple[int, Encoded]]]:
    """The rows in lists of up to `max_rows`, and of about MAX_VALUES values."""
    rows: list[tuple[int, Encoded]] = []
    num_values = 0
    for row in encoded:
        rows.append(row)
        num_values += max((len(value) for value in row[1].values() if isinstance(value, np.ndarray)), default=0)
        if len(rows) >= max_rows or num_values >= MAX_VALUES:
            yield rows
            rows, num_values = [], 0
    if rows:
        yield rows


def _write(path: Path, ids: npt.NDArray[np.uint64], columns: Mapping[str, Flat]) -> None:
    import pyarrow as pa

    lengths = num_tokens(columns, len(ids))
    table = pa.table({"id": ids, "length": lengths, **{name: _arrow(column) for name, column in columns.items()}})
    with pa.OSFile(f"{path}.arrow", "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)  # one record batch: columns stay contiguous
    np.save(f"{path}.length.npy", lengths)
    np.save(f"{path}.id.npy", ids)


def _arrow(column: Flat) -> Any:
    import pyarrow as pa

    if column.lengths is None:
        return pa.array(column.values)
    offsets = np.zeros(len(column.lengths) + 1, np.int32)
    np.cumsum(column.lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(column.values))


class _View(NamedTuple):
    """A column of one shard, as it lies in the memory map."""

    values: npt.NDArray[Any]
    offsets: npt.NDArray[np.int32] | None
    cells: memoryview
    """The offsets, or the values where there are none, for reading one by one."""


def _views(path: Path) -> dict[str, _View]:
    """The encoded columns of one shard, without a copy."""
    import pyarrow as pa

    try:
        table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        views: dict[str, _View] = {}
        for name in table.column_names[2:]:
            array = table.column(name).chunk(0)
            is_ragged = pa.types.is_list(array.type)
            values = (array.values if is_ragged else array).to_numpy(zero_copy_only=True)
            offsets = array.offsets.to_numpy(zero_copy_only=True) if is_ragged else None
            views[name] = _View(values, offsets, memoryview(values if offsets is None else offsets))
        return views
    except PermissionError as error:
        raise DataError(told(error, path)) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path}: the shard cannot be read ({error}). Delete the prepared folder; it is made anew."
        ) from None


@dataclass(frozen=True)
class Shards:
    """The shards of one split, memory-mapped. Open them with `Shards.open(folder)`."""

    paths: tuple[Path, ...]
    """Without the endings; in row order."""
    sizes: tuple[int, ...]
    """Rows of each."""
    _opened: dict[int, dict[str, _View]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, folder: Path) -> Shards:
        """The shards in `folder`; none at all is an empty split. Raises DataError when a file of one is missing."""
        paths = sorted(path.with_suffix("") for path in folder.glob("*.arrow"))
        return cls(tuple(paths), tuple(len(_mapped(path, "length")) for path in paths))

    def __len__(self) -> int:
        return sum(self.sizes)

    def __add__(self, other: Shards) -> Shards:
        """The rows of both, those of `other` behind ours. They must have the same columns."""
        return Shards(self.paths + other.paths, self.sizes + other.sizes)

    @cached_property
    def ids(self) -> npt.NDArray[np.uint64]:
        """The stable identity of each example: [rows]."""
        return self._joined("id", np.uint64)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of each example, 1 at least: [rows]."""
        return self._joined("length", np.int32)

    def _joined(self, part: str, dtype: type[np.generic]) -> npt.NDArray[Any]:
        arrays = [_mapped(path, part) for path in self.paths]
        return arrays[0] if len(arrays) == 1 else np.concatenate([np.zeros(0, dtype), *arrays])

    @cached_property
    def _starts(self) -> npt.NDArray[np.int64]:
        return np.cumsum((0, *self.sizes), dtype=np.int64)

    def __reduce__(self) -> tuple[Any, ...]:
        return Shards, (self.paths, self.sizes)  # a memory map does not travel; the other process opens its own

    def batch(self, rows: npt.NDArray[np.int64]) -> Batch:
        """The examples at `rows`, in that order, from any shards. Raises IndexError for a row that is not there."""
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= len(self)):
            raise IndexError(f"rows are 0 to {len(self) - 1}; asked for {int(rows.min())} to {int(rows.max())}.")
        if not len(self):
            return Batch(np.zeros(0, np.uint64))
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        local = rows - self._starts[shards]
        if not len(rows) or (shards == shards[0]).all():
            columns = _gather(self._columns(int(shards[0]) if len(rows) else 0), local)
        else:
            columns = self._across(shards.tolist(), local.tolist())
        return to_batch(self.ids[rows], columns)

    def _across(self, shards: list[int], local: list[int]) -> dict[str, Flat]:
        """Gather from several shards: one copy a row, because a row's shard differs from its neighbour's."""
        opened = {shard: self._columns(shard) for shard in set(shards)}
        return {name: _join([opened[shard][name] for shard in shards], local) for name in self._columns(0)}

    def _columns(self, shard: int) -> dict[str, _View]:
        if shard not in self._opened:
            self._opened[shard] = _views(self.paths[shard].with_suffix(".arrow"))
        return self._opened[shard]


def _mapped(path: Path, part: str) -> npt.NDArray[Any]:
    file = Path(f"{path}.{part}.npy")
    try:
        array: npt.NDArray[Any] = np.load(file, mmap_mode="r")
        return array
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}). Delete the prepared folder; it is made anew.") from None


def _gather(views: Mapping[str, _View], rows: npt.NDArray[np.int64]) -> dict[str, Flat]:
    """The values of `rows` of each column, end to end."""
    columns: dict[str, Flat] = {}
    for name, (values, offsets, _) in views.items():
        if offsets is None:
            columns[name] = Flat(values.take(rows))
            continue
        starts = offsets[rows].astype(np.int64)
        lengths = offsets[rows + 1] - starts
        columns[name] = Flat(values.take(_places(starts, lengths)), lengths)
    return columns


def _places(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """start, start + 1, ... for each example, end to end: [values]."""
    places: npt.NDArray[np.int64] = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    places += np.arange(len(places))
    return places


def _join(views: Sequence[_View], rows: Sequence[int]) -> Flat:
    """The values of one row of each view, end to end."""
    if views[0].offsets is None:
        cells = [view.cells[row] for view, row in zip(views, rows, strict=True)]
        return Flat(np.array(cells, dtype=views[0].values.dtype))
    # A memoryview hands out plain ints three times as fast as an array.
    parts = [view.values[view.cells[row] : view.cells[row + 1]] for view, row in zip(views, rows, strict=True)]
    return Flat(np.concatenate(parts), np.fromiter(map(len, parts), np.int64, len(parts)))
