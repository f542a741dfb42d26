"""Proof at run time that the workers train one model on every example once.

Replicas that drift apart look healthy until somebody adds up: each reports a falling loss of its own. So the workers
compare a checksum of their weights, and add up the examples that went through their models, against the plan's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from heliostat.errors import TrainError
from heliostat.train.worker import Worker

_IDS = 1 << 40
"""Sums of ids are kept below this, so that those of thousands of workers add up exactly in a double."""


class Seen:
    """The examples that went through this worker's model, and those of the plan, since the last proof."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all of them."""
        self.count, self.ids = 0, 0
        self.planned_count, self.planned_ids = 0, 0

    def add(self, ids: npt.NDArray[np.uint64]) -> None:
        """These went through the model of this worker."""
        self.count, self.ids = self.count + len(ids), _added(self.ids, ids)

    def expect(self, ids: npt.NDArray[np.uint64]) -> None:
        """These are the global batch, which all workers share."""
        self.planned_count, self.planned_ids = self.planned_count + len(ids), _added(self.planned_ids, ids)


def _added(total: int, ids: npt.NDArray[np.uint64]) -> int:
    return (total + int(np.sum(ids % np.uint64(_IDS), dtype=np.uint64))) % _IDS


def checksum(model: nn.Module) -> float:
    """A number that differs when any weight differs: a sum over the bits of every parameter, weighted by place.

    Shards are left out: of them there is one copy in all workers together, which cannot differ from itself.
    """
    total = 0
    for place, (_, parameter) in enumerate(_replicas(model)):
        total = (total * 31 + _bits(parameter) + place) % (1 << 52)
    return float(total)


def _replicas(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if not isinstance(parameter, DTensor))


def _bits(parameter: Tensor) -> int:
    kind = torch.int32 if parameter.element_size() == 4 else torch.int16
    return int(parameter.detach().contiguous().view(kind).sum(dtype=torch.int64))


def check_truth(worker: Worker, model: nn.Module, seen: Seen, step: int) -> None:
    """Compare all workers' weights, and the examples they saw with those of the plan.

    Every worker calls it after the same step. Raises TrainError on each of them, naming the ranks and what differs.
    """
    sums = worker.gather(checksum(model)) if worker.world_size > 1 else [0.0]
    counts, ids = worker.gather(float(seen.count)), worker.gather(float(seen.ids))
    planned_count, planned_ids = seen.planned_count, seen.planned_ids
    seen.clear()
    strays = odd_ranks(sums)
    if strays:
        others = (
            "rank 0" if 0 not in strays else f"rank {next(rank for rank in range(len(sums)) if rank not in strays)}"
        )
        raise TrainError(
            f"after step {step} the weights of {_ranks(strays)} differ from those of {others}, first in "
            f"'{_first_difference(worker, model)}': gradients were not averaged over all workers. "
            "The run was stopped; nothing it reports from here is true."
        )
    if sum(counts) != planned_count or sum(map(int, ids)) % _IDS != planned_ids:
        saw = ", ".join(f"rank {rank} {count:.0f}" for rank, count in enumerate(counts))
        what = "other examples than" if sum(counts) == planned_count else f"{sum(counts):.0f} examples instead of"
        raise TrainError(
            f"up to step {step} the workers saw {what} the {planned_count} of the plan since the last check ({saw}): "
            "the global batches were not shared so that each example is seen once. The run was stopped."
        )


def odd_ranks(values: Sequence[float]) -> list[int]:
    """The ranks whose value is not that of most; where there is no majority, not that of rank 0."""
    most, votes = Counter(values).most_common(1)[0]
    usual = most if votes > len(values) / 2 else values[0]
    return [rank for rank, value in enumerate(values) if value != usual]


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _first_difference(worker: Worker, model: nn.Module) -> str:
    """The first parameter that differs. Every worker has found the same difference, so all of them ask."""
    for name, parameter in _replicas(model):
        if odd_ranks(worker.gather(float(_bits(parameter) % (1 << 52)))):
            return name
    return "a parameter that only some of them have"
