"""Loss and scores on the valid split during training, from sums over all workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from heliostat.batch import Draws
from heliostat.data.drawn import drawn
from heliostat.data.plan import Rows, micro_batches
from heliostat.plugin import TaskHead
from heliostat.train.worker import Sums

if TYPE_CHECKING:
    from heliostat.train.trainee import Trainee

_TALLY = "tally/"


@torch.no_grad()
def validate(trainee: Trainee) -> dict[str, float]:
    """`loss` (terms weighted and added), each term, and the head's scores, over the whole valid split."""
    head, worker = trainee.parts.head, trainee.worker
    trainee.model.eval()
    pieces = _pieces(trainee, worker.rank)
    sums = _zeros(trainee)
    if worker.is_sharded:  # as many passes as the worker with the most
        most = max(len(_pieces(trainee, rank)) for rank in range(worker.world_size))
        for _ in range(most - len(pieces)):
            _sums_of(trainee, np.zeros(1, dtype=np.int64))
    for piece in pieces:
        for name, value in _sums_of(trainee, piece).items():
            sums[name] = sums[name] + value
    return _scores(head, worker.add_up(sums))


@torch.no_grad()
def score_names(trainee: Trainee) -> list[str]:
    """The names that `validate` gives, from one row of the valid split; none where it has no row."""
    trainee.model.eval()
    if not len(trainee.valid):
        return []
    return list(_scores(trainee.parts.head, _sums_of(trainee, np.zeros(1, dtype=np.int64))))


def _scores(head: TaskHead, total: Sums) -> dict[str, float]:
    terms = {
        name.removeprefix("sum/"): float(value) / max(float(total["count/" + name.removeprefix("sum/")]), 1e-9)
        for name, value in total.items()
        if name.startswith("sum/")
    }
    weights = head.weights()
    loss = sum(weights.get(name, 1.0) * value for name, value in terms.items())
    tally = {name.removeprefix(_TALLY): value for name, value in total.items() if name.startswith(_TALLY)}
    return {**terms, "loss": loss, **(head.scores(tally) if tally else {})}


def _pieces(trainee: Trainee, rank: int) -> list[Rows]:
    """The micro-batches of one worker."""
    rows = np.arange(rank, len(trainee.valid), trainee.worker.world_size)
    by_length = rows[np.argsort(trainee.valid.lengths[rows], kind="stable")]
    return micro_batches(by_length, trainee.valid.lengths, trainee.run.train.tokens_per_micro_batch)


def _zeros(trainee: Trainee) -> Sums:
    """Zero sums of every name and shape, so that a worker without rows still joins in the adding up."""
    if not len(trainee.valid):
        return {}
    return {name: np.zeros_like(value) for name, value in _sums_of(trainee, np.zeros(1, dtype=np.int64)).items()}


def _sums_of(trainee: Trainee, rows: np.typing.NDArray[np.int64]) -> Sums:
    head, worker, model = trainee.parts.head, trainee.worker, trainee.model
    # The same draws in every validation, so that scores can be compared.
    batch = drawn(trainee.valid, rows, head, Draws(trainee.run.train.seed, 0, False), trainee.spec).to(worker.device)
    with torch.autocast(worker.device.type, torch.bfloat16, trainee.run.train.precision == "bf16"):
        has_tally = type(head).tally is not TaskHead.tally
        found = model.validate(batch, predict=has_tally)
    sums = {f"sum/{name}": np.array(float(value)) for name, value in found.losses.items()}
    sums |= {_TALLY + name: value.double().numpy(force=True) for name, value in found.measures.items()}
    sums |= {f"count/{name}": np.array(count) for name, count in head.counts(batch).items()}
    if has_tally:
        sums |= {_TALLY + name: value for name, value in head.tally(batch, found.predictions).items()}
    return sums
