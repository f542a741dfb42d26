"""Proof at run time that the workers hold one model: replicas that drift apart look healthy until somebody adds up."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from heliostat.errors import TrainError
from heliostat.train.worker import Worker


def checksum(model: nn.Module) -> float:
    """A number that differs when any weight differs: a sum over the bits of every parameter, weighted by place.

    Shards are left out: of them there is one copy in all workers together, which cannot differ from itself.
    """
    total = 0
    for place, parameter in enumerate(model.parameters()):
        if isinstance(parameter, DTensor):
            continue
        bits = parameter.detach().contiguous().view(torch.int32 if parameter.element_size() == 4 else torch.int16)
        total = (total * 31 + int(bits.sum(dtype=torch.int64)) + place) % (1 << 52)
    return float(total)


def check_truth(worker: Worker, model: nn.Module, step: int) -> None:
    """Compare the checksums of all workers. Raises TrainError naming the ranks whose weights differ."""
    if worker.world_size == 1:
        return
    sums = worker.gather(checksum(model))
    strays = [rank for rank, value in enumerate(sums) if value != sums[0]]
    if strays:
        raise TrainError(
            f"after step {step} the weights of rank {', '.join(map(str, strays))} differ from those of rank 0: "
            "gradients were not averaged over the workers. The run was stopped; nothing it reports from here is true."
        )
