"""One optimiser update: each worker computes its share of a global batch, and the gradient is that of the whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from heliostat.batch import Batch, Draws, Ragged
from heliostat.data.drawn import drawn
from heliostat.data.plan import micro_batches, share
from heliostat.train.optimizer import set_lr
from heliostat.train.progress import Position
from heliostat.train.sharded import whole
from heliostat.train.worker import Sums, Worker

if TYPE_CHECKING:
    from heliostat.train.trainee import Trainee


class Update(NamedTuple):
    """What one optimiser update did, on this worker and over all."""

    sums: dict[str, float]
    """This worker's part of each loss term."""
    counts: dict[str, float]
    """The count of targets of each term, over all workers."""
    grad_norm: float
    """Norm of the global batch's gradient, before clipping."""
    tokens: float
    """Tokens of the global batch."""
    stop: bool
    """Whether any worker was asked to stop."""
    micro_batches: float = 0.0
    """Passes that were made for it, over all workers."""


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make dropout a function of (seed, step, rank), so that any step can be computed again."""
    words = np.random.SeedSequence([seed, step, rank]).generate_state(2)
    torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def update(trainee: Trainee, rows: npt.NDArray[np.int64], position: Position, lr: float) -> Update:
    """One optimiser update from the rows of one global batch, of which this worker computes its share."""
    seed_step(trainee.run.train.seed, position.step, trainee.worker.rank)
    trainee.model.train()
    batches, num_mine = _load(trainee, rows, Draws(trainee.run.train.seed, position.epoch))
    agreed = _agree(trainee, batches, num_mine)
    trainee.seen.expect(trainee.train.ids[rows])
    counts = {name: float(value) for name, value in agreed.items() if not name.startswith("#")}
    sums = _backward(trainee, batches, counts, num_mine)
    if trainee.ranks:
        trainee.ranks.penalise()
    limit = trainee.run.train.clip_norm or math.inf
    norm = float(whole(nn.utils.clip_grad_norm_(trainee.model.parameters(), limit, foreach=True)))
    if math.isfinite(norm):
        set_lr(trainee.optimizer, lr)
        trainee.optimizer.step()
        if trainee.ranks:
            trainee.ranks.allocate(position.step + 1)
        if trainee.average:
            trainee.average.update(trainee.model, position.step + 1)
    trainee.optimizer.zero_grad(set_to_none=True)
    tokens, micro_batches = float(agreed["#tokens"]), float(agreed["#micro_batches"])
    return Update(sums, counts, norm, tokens, bool(agreed["#stop"] > 0), micro_batches)


def told(updates: Sequence[Update], worker: Worker, budget: int) -> dict[str, float]:
    """What the journal is told of some updates: each loss term, from sums over them, never from means of means.

    `unused_budget` is the share of the micro-batches' `budget` of tokens that no token filled. It is what padding is
    to others: here nothing is padded, so what is not filled is not computed either. Every worker calls it.
    """
    last = updates[-1]
    sums = worker.add_up({name: np.array(sum(each.sums[name] for each in updates)) for name in last.sums})
    counts = {name: sum(each.counts[name] for each in updates) for name in last.counts}
    tokens = sum(each.tokens for each in updates)
    room = max(1.0, sum(each.micro_batches for each in updates) * budget)
    losses = {name: float(sums[name]) / max(counts[name], 1e-9) for name in sums}
    return {**losses, "grad_norm": last.grad_norm, "unused_budget": max(0.0, 1.0 - tokens / room)}


def _load(trainee: Trainee, rows: npt.NDArray[np.int64], draws: Draws) -> tuple[list[Batch], int]:
    """This worker's micro-batches of a global batch, and how many of them count.

    Behind those that count, one row stands in for each that is missing: every worker makes one pass at least, and as
    many as any other where the model is sharded.
    """
    lengths, worker, size = trainee.train.lengths, trainee.worker, trainee.run.train.tokens_per_micro_batch
    ranks = range(worker.world_size) if worker.is_sharded else [worker.rank]
    shares = {rank: micro_batches(share(rows, lengths, rank, worker.world_size), lengths, size) for rank in ranks}
    mine, passes = shares[worker.rank], max(1, *(len(pieces) for pieces in shares.values()))
    stand_in = rows[[int(np.argmin(lengths[rows]))]]
    head = trainee.parts.head
    batches = [
        drawn(trainee.train, piece, head, draws, trainee.spec, trainee.augmenter).to(worker.device)
        for piece in [*mine, *[stand_in] * (passes - len(mine))]
    ]
    return batches, len(mine)


def _agree(trainee: Trainee, batches: list[Batch], num_mine: int) -> Sums:
    """Counts of targets and tokens over all workers, and whether one was asked to stop: one exchange a step."""
    mine: dict[str, float] = dict.fromkeys(trainee.parts.head.counts(batches[0]), 0.0)
    mine |= {"#tokens": 0.0, "#micro_batches": float(num_mine), "#stop": float(trainee.should_stop())}
    for batch in batches[:num_mine]:
        for name, count in trainee.parts.head.counts(batch).items():
            mine[name] += count
        mine["#tokens"] += float(batch_tokens(batch))
    return trainee.worker.add_up({name: np.array(value) for name, value in mine.items()})


def _backward(trainee: Trainee, batches: list[Batch], counts: dict[str, float], num_mine: int) -> dict[str, float]:
    """Leave the gradient of the global batch in the parameters; return this worker's loss sums.

    Each term is divided by its count over all workers, and multiplied by their number as DDP averages: the gradient
    is that of the whole batch, however many workers and micro-batches it was cut into.
    """
    weights = trainee.parts.head.weights()
    sums = dict.fromkeys(counts, 0.0)
    for place, batch in enumerate(batches):
        is_last, is_mine = place == len(batches) - 1, place < num_mine
        with nullcontext() if is_last else trainee.worker.accumulating(trainee.wrapped):
            with torch.autocast(trainee.worker.device.type, torch.bfloat16, trainee.run.train.precision == "bf16"):
                terms = cast(dict[str, Tensor], trainee.wrapped(batch))
            scale = float(trainee.worker.world_size) if is_mine else 0.0
            total = torch.stack(
                [terms[name] * (scale * weights.get(name, 1.0) / max(counts[name], 1e-9)) for name in terms]
            ).sum()
            total.backward()  # type: ignore[no-untyped-call]
        if is_mine:
            trainee.seen.add(batch.ids)
        for name, value in terms.items() if is_mine else ():
            sums[name] += float(value.detach())
    return sums


def batch_tokens(batch: Batch) -> int:
    """Values in the widest ragged column of a batch, or its examples where there is none."""
    return max([len(batch), *(sum(col.lengths) for col in batch.columns.values() if isinstance(col, Ragged))])
