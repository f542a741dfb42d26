"""The batch plan: every example once an epoch, the same anywhere, within its budgets."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliostat.data.plan import BatchPlan, micro_batches, share

Lengths = npt.NDArray[np.int32]
LENGTHS = st.lists(st.integers(1, 40), max_size=200).map(lambda values: np.array(values, np.int32))
BUDGET = st.integers(1, 300)


def plan(lengths: Lengths, budget: int = 64, seed: int = 3) -> BatchPlan:
    return BatchPlan(lengths, tokens_per_batch=budget, seed=seed, block_size=4, window_blocks=3)


def lists(batches: object) -> list[list[int]]:
    return [batch.tolist() for batch in batches]  # type: ignore[attr-defined]


@given(LENGTHS, BUDGET, st.integers(0, 2**31), st.integers(0, 5))
def test_every_example_once_within_the_budget(lengths: Lengths, budget: int, seed: int, epoch: int) -> None:
    batches = list(plan(lengths, budget, seed).batches(epoch))
    assert sorted(np.concatenate([np.zeros(0, np.int64), *batches]).tolist()) == list(range(len(lengths)))
    assert all(len(rows) == 1 or lengths[rows].sum() <= budget for rows in batches)
    assert all(len(rows) for rows in batches)


@given(LENGTHS, BUDGET)
def test_batches_are_full(lengths: Lengths, budget: int) -> None:
    batches = list(plan(lengths, budget).batches(0))
    for rows, following in pairwise(batches):
        assert lengths[rows].sum() + lengths[following[0]] > budget


@given(LENGTHS, BUDGET, st.integers(0, 100))
def test_a_resume_gives_the_same_tail(lengths: Lengths, budget: int, start: int) -> None:
    whole = lists(plan(lengths, budget).batches(2))
    assert lists(plan(lengths, budget).batches(2, start)) == whole[start:]
    assert plan(lengths, budget).num_batches(2) == len(whole)


def test_epochs_and_seeds_differ() -> None:
    lengths = np.full(200, 5, np.int32)
    orders = {str(lists(plan(lengths, seed=seed).batches(epoch))) for seed in (1, 2) for epoch in (0, 1)}
    assert len(orders) == 4


def test_the_order_is_the_same_for_ever() -> None:
    """A resume may happen on another machine with another numpy: this order is a promise."""
    lengths = np.arange(1, 13, dtype=np.int32)
    assert lists(BatchPlan(lengths, tokens_per_batch=20, seed=7).batches(1)) == [
        [6, 9],
        [5, 10],
        [3, 4],
        [11],
        [8, 1, 7, 0],
        [2],
    ]


def test_rows_are_shuffled_within_a_window_of_blocks_and_no_further() -> None:
    order = np.concatenate(list(plan(np.full(400, 1, np.int32)).batches(0)))
    windows = [set((order[first : first + 12] // 4).tolist()) for first in range(0, 396, 12)]
    assert all(len(blocks) == 3 for blocks in windows)
    assert max(max(blocks) - min(blocks) for blocks in windows) > 3  # the blocks come from all over
    in_order = sum(following == row + 1 for row, following in pairwise(order.tolist()))
    assert in_order < 100  # of the 300 neighbours that blocks hold


@given(LENGTHS, st.integers(1, 9))
def test_shares_are_disjoint_and_complete(lengths: Lengths, world_size: int) -> None:
    rows = np.random.default_rng(0).permutation(len(lengths))
    shares = [share(rows, lengths, rank, world_size) for rank in range(world_size)]
    assert sorted(np.concatenate(shares).tolist()) == sorted(rows.tolist())
    assert sum(not len(mine) for mine in shares) == max(0, world_size - len(rows))
    for mine in shares:
        assert (np.diff(lengths[mine]) <= 0).all()
    loads = [int(lengths[mine].sum()) for mine in shares]
    assert max(loads) - min(loads) <= (int(lengths.max()) if len(lengths) else 0)


def test_65_rows_on_2_workers() -> None:
    lengths = np.full(65, 10, np.int32)
    for rows in plan(lengths, budget=150).batches(0):
        mine, yours = share(rows, lengths, 0, 2), share(rows, lengths, 1, 2)
        assert abs(len(mine) - len(yours)) <= 1
        assert not set(mine.tolist()) & set(yours.tolist())
    last = list(plan(lengths, budget=10).batches(0))[-1]
    assert (len(share(last, lengths, 0, 2)), len(share(last, lengths, 1, 2))) == (1, 0)


@given(LENGTHS, BUDGET)
def test_micro_batches_keep_order_and_budget(lengths: Lengths, budget: int) -> None:
    rows = np.random.default_rng(1).permutation(len(lengths))
    parts = micro_batches(rows, lengths, budget)
    assert np.concatenate([np.zeros(0, np.int64), *parts]).tolist() == rows.tolist()
    assert all(len(part) == 1 or lengths[part].sum() <= budget for part in parts)
    assert bool(parts) == bool(len(rows))


def test_an_empty_split_has_no_batches() -> None:
    empty = plan(np.zeros(0, np.int32))
    assert empty.num_batches(0) == 0
    assert list(empty.batches(0)) == []
    assert micro_batches(np.zeros(0, np.int64), np.zeros(0, np.int32), 8) == []


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_no_rows_are_shared_out_as_none(rank: int) -> None:
    assert share(np.zeros(0, np.int64), np.zeros(0, np.int32), rank, 3).tolist() == []
