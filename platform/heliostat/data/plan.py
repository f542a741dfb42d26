"""The batch plan: which rows make up which batch, as a pure function of (seed, epoch, lengths, budget).

So any step of any worker can be computed again anywhere: a resumed run takes up in mid-epoch, and a change in the
number of workers loses and repeats no example. Whole blocks of rows are permuted, then rows are shuffled within a
window of blocks, so that reads stay near each other and memory stays small, however many rows there are.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

import numpy as np
import numpy.typing as npt

from heliostat.batch import Batch, Draws

Rows = npt.NDArray[np.int64]
"""Row numbers of a split."""

_BLOCKS, _ROWS = 101, 102  # streams of random draws: the order of blocks, and of rows in a window


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """The global batches of every epoch; each example stands in exactly one batch of an epoch."""

    lengths: npt.NDArray[np.int32]
    """Tokens of each row, 1 at least; a memory map will do."""
    _: KW_ONLY
    tokens_per_batch: int
    """Tokens of a batch over all workers; a longer example makes a batch of its own."""
    seed: int
    block_size: int = 256
    """Neighbouring rows that stay in one window."""
    window_blocks: int = 256
    """Blocks among which rows are shuffled."""

    def num_batches(self, epoch: int) -> int:
        """Batches of this epoch; epochs differ by a few."""
        return sum(len(ends) for _, ends in self._cut(epoch))

    def batches(self, epoch: int, start: int = 0) -> Iterator[Rows]:
        """The row numbers of each global batch, from batch number `start` on."""
        number = 0
        for rows, ends in self._cut(epoch):
            for batch in np.split(rows, ends[:-1]) if len(ends) else []:
                if number >= start:
                    yield batch
                number += 1

    def _cut(self, epoch: int) -> Iterator[tuple[Rows, list[int]]]:
        """Rows with the ends of the whole batches among them; what is left over goes in front of the next window."""
        rest = np.zeros(0, np.int64)
        windows = list_windows(self, epoch)
        for rows, is_last in windows:
            rows = np.concatenate([rest, rows])
            ends = cut(self.lengths[rows], self.tokens_per_batch)
            if not is_last and ends:
                ends = ends[:-1]  # the last batch may still take rows of the next window
            whole = ends[-1] if ends else 0
            rest = rows[whole:]
            if whole:
                yield rows[:whole], ends


def list_windows(plan: BatchPlan, epoch: int) -> Iterator[tuple[Rows, bool]]:
    """The shuffled rows of one window after the other, each with whether it is the last."""
    draws = Draws(plan.seed, epoch)
    num_rows, size = len(plan.lengths), plan.block_size
    blocks = _shuffled(np.arange(-(-num_rows // size)), draws, _BLOCKS)
    for first in range(0, len(blocks), plan.window_blocks):
        window = blocks[first : first + plan.window_blocks]
        rows = (window[:, None] * size + np.arange(size)).ravel()
        yield _shuffled(rows[rows < num_rows], draws, _ROWS), first + plan.window_blocks >= len(blocks)


def _shuffled(values: Rows, draws: Draws, stream: int) -> Rows:
    """`values` in the order of a random number that each has: the same with any version of numpy."""
    return values[np.argsort(draws.uniform(Batch(values.astype(np.uint64)), stream), kind="stable")]


def cut(lengths: npt.NDArray[np.int32], max_tokens: int) -> list[int]:
    """Where groups of consecutive examples end that hold up to `max_tokens` tokens, or one example."""
    totals = np.cumsum(lengths, dtype=np.int64)
    ends: list[int] = []
    end, used = 0, 0
    while end < len(totals):
        end = max(end + 1, int(np.searchsorted(totals, used + max_tokens, side="right")))
        used = int(totals[end - 1])
        ends.append(end)
    return ends


def share(rows: Rows, lengths: npt.NDArray[np.int32], rank: int, world_size: int) -> Rows:
    """The rows of one worker from a global batch: longest first, and about equal tokens for all.

    `lengths` are those of the whole split. The shares of all ranks are disjoint and complete; a rank has none only when
    there are fewer rows than workers. Each row goes to the worker with the fewest tokens so far, longest first (Graham
    1969: at most 4/3 of the best possible maximum).
    """
    sizes = lengths[rows]
    order = np.argsort(-sizes.astype(np.int64), kind="stable")
    if world_size == 1:
        return rows[order]
    loads = [(0, worker) for worker in range(world_size)]
    mine: list[int] = []
    for place, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        load, worker = loads[0]
        heapq.heapreplace(loads, (load + size, worker))
        if worker == rank:
            mine.append(place)
    return rows[np.array(mine, dtype=np.int64)]


def micro_batches(rows: Rows, lengths: npt.NDArray[np.int32], max_tokens: int) -> list[Rows]:
    """`rows`, in order, in groups of up to `max_tokens` tokens, or of one longer example; none for no rows.

    `lengths` are those of the whole split.
    """
    ends = cut(lengths[rows], max_tokens)
    return np.split(rows, ends[:-1]) if ends else []
