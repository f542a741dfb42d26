"""Shards: what is written comes back bit-equal, in any order, across shards, without a copy of the shard."""

from __future__ import annotations

import pickle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat.batch import Batch, Encoded, Ragged
from heliostat.data.collate import collate
from heliostat.data.shards import Shards, write_shards
from heliostat.errors import DataError

INT32 = st.integers(-(2**31), 2**31 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)
VALUES = {
    "number": st.integers(-(2**63), 2**63 - 1),
    "score": FLOAT32,
    "tokens": st.lists(INT32, max_size=9).map(lambda values: np.array(values, np.int32)),
    "weights": st.lists(FLOAT32, max_size=5).map(lambda values: np.array(values, np.float32)),
}


@st.composite
def rows_of_examples(draw: st.DrawFn) -> list[tuple[int, Encoded]]:
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True, max_size=4))
    ids = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20, unique=True))
    return [(id, {name: draw(VALUES[name]) for name in names}) for id in ids]


def plain(batch: Batch) -> dict[str, Any]:
    """Everything in a batch, with its number formats, as values that compare."""
    found: dict[str, Any] = {"id": batch.ids.tolist()}
    for name, column in batch.columns.items():
        if isinstance(column, Ragged):
            found[name] = (column.values.dtype, column.values.tolist(), column.offsets.tolist(), column.lengths)
            assert str(column.offsets.dtype) == "torch.int32"
        else:
            found[name] = (column.dtype, column.tolist())
    return found


def texts(count: int) -> list[tuple[int, Encoded]]:
    return [(10 * i, {"tokens": np.arange(i % 7, dtype=np.int32), "target": i % 3}) for i in range(count)]


@settings(max_examples=60, deadline=None)
@given(rows_of_examples(), st.integers(1, 25), st.data())
def test_any_rows_in_any_order_equal_collate(
    rows: list[tuple[int, Encoded]], max_rows: int, data: st.DataObject
) -> None:
    wanted = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=30))
    with TemporaryDirectory() as folder:
        write_shards(iter(rows), Path(folder), max_rows=max_rows)
        shards = Shards.open(Path(folder))
        assert len(shards) == len(rows)
        assert shards.ids.tolist() == [id for id, _ in rows]
        batch = shards.batch(np.array(wanted))
    ids = np.array([rows[row][0] for row in wanted], np.uint64)
    assert plain(batch) == plain(collate([rows[row][1] for row in wanted], ids))


def test_formats_of_a_batch(tmp_path: Path) -> None:
    example = {"n": 2**40, "x": 0.1, "tokens": np.array([3, 4], np.int32), "w": np.array([0.5], np.float32)}
    write_shards([(7, example)], tmp_path)
    batch = Shards.open(tmp_path).batch(np.array([0]))
    formats = {
        name: str(getattr(column, "dtype", None) or column.values.dtype) for name, column in batch.columns.items()
    }
    assert formats == {"n": "torch.int64", "x": "torch.float32", "tokens": "torch.int64", "w": "torch.float32"}
    assert batch.dense("n").tolist() == [2**40]
    assert batch.ids.dtype == np.uint64


def test_lengths_add_up_ragged_columns_and_are_one_at_least(tmp_path: Path) -> None:
    two = {"a": np.zeros(3, np.int32), "b": np.zeros(2, np.float32), "t": 1}
    none = {"a": np.zeros(0, np.int32), "b": np.zeros(0, np.float32), "t": 1}
    write_shards([(1, two), (2, none)], tmp_path)
    assert Shards.open(tmp_path).lengths.tolist() == [5, 1]
    assert Shards.open(tmp_path).lengths.dtype == np.int32


def test_datasets_opens_each_shard(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    write_shards(iter(texts(25)), tmp_path, max_rows=10)
    files = sorted(tmp_path.glob("*.arrow"))
    assert len(files) == 3
    rows = [row for file in files for row in datasets.Dataset.from_file(str(file))]
    expected = [
        {"id": id, "length": max(1, len(row["tokens"])), "tokens": list(row["tokens"]), "target": row["target"]}  # type: ignore[arg-type]
        for id, row in texts(25)
    ]
    assert rows == expected


def test_columns_lie_in_the_memory_map(tmp_path: Path) -> None:
    write_shards(iter(texts(50)), tmp_path)
    view = Shards.open(tmp_path)._columns(0)["tokens"]
    assert not view.values.flags.owndata
    assert not view.values.flags.writeable


def test_an_empty_split_has_no_rows(tmp_path: Path) -> None:
    write_shards(iter([]), tmp_path / "none")
    shards = Shards.open(tmp_path / "none")
    assert len(shards) == len(shards.ids) == len(shards.lengths) == 0
    assert len(shards.batch(np.zeros(0, np.int64))) == 0
    with pytest.raises(IndexError, match="asked for 0"):
        shards.batch(np.array([0]))


def test_no_rows_of_a_split_keep_its_columns(tmp_path: Path) -> None:
    write_shards(iter(texts(5)), tmp_path)
    batch = Shards.open(tmp_path).batch(np.zeros(0, np.int64))
    assert plain(batch).keys() == {"id", "tokens", "target"}
    assert batch.ragged("tokens").offsets.tolist() == [0]


def test_another_process_opens_its_own_map(tmp_path: Path) -> None:
    write_shards(iter(texts(30)), tmp_path, max_rows=8)
    shards = Shards.open(tmp_path)
    first = plain(shards.batch(np.arange(29, -1, -1)))
    assert plain(pickle.loads(pickle.dumps(shards)).batch(np.arange(29, -1, -1))) == first  # noqa: S301


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"tokens": np.zeros(2, np.float32), "target": 1}, "'tokens' of example 20 is an array .* of float32"),
        ({"tokens": np.zeros(2, np.int32), "target": 1.0}, "'target' of example 20 is of type float"),
        ({"tokens": np.zeros(2, np.int32)}, "example 20 is encoded to the columns tokens"),
        ({"tokens": [1, 2], "target": 1}, "'tokens' of example 20 is of type list"),
        ({"tokens": np.zeros((2, 2), np.int32), "target": 1}, r"'tokens' of example 20 is an array \[2, 2\]"),
        ({"tokens": np.zeros(2, np.int32), "target": 2**63}, "'target': a number is outside"),
    ],
)
def test_a_misfit_is_named(tmp_path: Path, second: Any, message: str) -> None:
    first = {"tokens": np.zeros(2, np.int32), "target": 1}
    for max_rows in (1, 10):
        with pytest.raises(DataError, match=message):
            write_shards([(10, first), (20, second)], tmp_path, max_rows=max_rows)


@pytest.mark.parametrize("value", ["text", None, np.zeros(2, np.int64), [1]])
def test_a_value_that_no_column_holds_is_named(tmp_path: Path, value: Any) -> None:
    with pytest.raises(DataError, match="column 'tokens' of example 3"):
        write_shards([(3, {"tokens": value})], tmp_path)


def test_reserved_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column 'length'"):
        write_shards([(3, {"length": 1})], tmp_path)


@pytest.mark.parametrize("ending", [".arrow", ".length.npy", ".id.npy"])
def test_a_damaged_shard_says_which_file(tmp_path: Path, ending: str) -> None:
    write_shards(iter(texts(5)), tmp_path)
    (file,) = tmp_path.glob(f"*{ending}")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=ending):
        Shards.open(tmp_path).batch(np.array([0]))
