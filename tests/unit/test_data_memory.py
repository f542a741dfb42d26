"""What reads a file of examples holds a small part of it at a time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from heliostat.data.rejects import Place
from heliostat.data.sources import open_source
from heliostat.data.stored import Stored, StoredWriter, read_stored

COUNT = 50_000


def texts() -> Iterator[str]:
    draw = random.Random(1)
    return (draw.randbytes(200).hex() for _ in range(COUNT))


def stored(path: Path) -> Iterator[Any]:
    with StoredWriter(path) as writer:
        for number, text in enumerate(texts()):
            writer.add(Stored(number, Place("a.jsonl", number), text, "{}"))
    return iter(read_stored(path))


def of_one_row_group(path: Path) -> Iterator[Any]:
    parquet.write_table(pa.table({"text": list(texts())}), path, row_group_size=COUNT)
    return iter(open_source(str(path)).rows())


@pytest.mark.parametrize("rows_of", [stored, of_one_row_group])
def test_a_parquet_file_is_read_piece_by_piece(tmp_path: Path, rows_of: Callable[[Path], Iterator[Any]]) -> None:
    path = tmp_path / "rows.parquet"
    rows, before, most = rows_of(path), pa.total_allocated_bytes(), 0
    for number, _ in enumerate(rows):
        if number % 500 == 0:
            most = max(most, pa.total_allocated_bytes() - before)
    assert number == COUNT - 1
    assert path.stat().st_size > 1e7
    assert most < path.stat().st_size / 2
