"""Collating for requests. That it equals a batch from shards stands in test_shards."""

from __future__ import annotations

import numpy as np
import pytest

from heliostat.data.collate import collate
from heliostat.errors import DataError


def ids(*values: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(values, np.uint64)


def test_values_stand_end_to_end() -> None:
    batch = collate([{"t": np.array([1, 2], np.int32)}, {"t": np.array([3], np.int32)}], ids(5, 6))
    assert batch.ids.tolist() == [5, 6]
    assert batch.ragged("t").values.tolist() == [1, 2, 3]
    assert batch.ragged("t").offsets.tolist() == [0, 2, 3]
    assert [part.tolist() for part in batch.ragged("t").split()] == [[1, 2], [3]]


def test_a_batch_does_not_share_memory_with_what_went_in() -> None:
    weights = np.array([1.0, 2.0], np.float32)
    batch = collate([{"w": weights}], ids(1))
    batch.ragged("w").values[0] = 9.0
    assert weights.tolist() == [1.0, 2.0]


def test_nothing_makes_an_empty_batch() -> None:
    assert len(collate([], ids())) == 0


def test_truth_values_are_numbers() -> None:
    assert collate([{"is_new": True}, {"is_new": False}], ids(1, 2)).dense("is_new").tolist() == [1, 0]


def test_columns_must_agree() -> None:
    with pytest.raises(DataError, match="example 2 is encoded to the columns b"):
        collate([{"a": 1}, {"b": 1}], ids(1, 2))
