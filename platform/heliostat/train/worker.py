"""The one seam between the loop and where it runs: who am I, and what do we add up together."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from heliostat.model import Model, count_parameters
from heliostat.train.assignment import Assignment, Evaluator
from heliostat.train.policy import Continue, Judged, Stop
from heliostat.train.sharded import shard, without_reduction

Sums = dict[str, npt.NDArray[np.float64]]
"""Named sums that add up across workers."""


class Worker(ABC):
    """One of `world_size` processes that train one model together."""

    rank: int
    world_size: int
    device: torch.device
    strategy: Literal["single", "ddp", "fsdp"]
    """How the work is shared: not at all, each with the whole model, or each with a shard of it."""

    @property
    def is_sharded(self) -> bool:
        """Whether a worker holds a shard: every pass is then one of all workers together, as is reading a weight."""
        return self.strategy == "fsdp"

    @abstractmethod
    def wrap(self, model: Model) -> nn.Module:
        """The model on this worker's device, with gradients averaged over the workers in backward."""

    @abstractmethod
    def accumulating(self, model: nn.Module) -> AbstractContextManager[None]:
        """A context in which backward leaves gradients on this worker, for all micro-batches but the last."""

    @abstractmethod
    def add_up(self, sums: Mapping[str, npt.NDArray[np.float64]]) -> Sums:
        """The sums over all workers; every worker passes the same names and shapes and gets the same answer."""

    @abstractmethod
    def gather(self, value: float) -> list[float]:
        """The value of every worker, by rank; every worker gets the same list."""

    @abstractmethod
    def should_stop(self) -> bool:
        """Whether somebody asked this worker to stop. Workers may answer differently; the loop adds the answers up."""

    def judge(self, judged: Judged) -> Continue | Stop:
        """What others say of a validation, as a sweep that stops its weaker trials; nobody has a say here.

        Every worker asks, after the last update too, and gets the same answer.
        """
        return Continue()

    def evaluator(self, assignment: Assignment) -> Evaluator:
        """Start what scores checkpoints while this worker trains: a process on this machine."""
        from heliostat.train.evaluator import ChildProcess

        return ChildProcess(assignment)


class LocalWorker(Worker):
    """This process, alone."""

    def __init__(self, asked_to_stop: Callable[[], bool] = lambda: False) -> None:
        self.rank, self.world_size = 0, 1
        self.strategy = "single"
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.asked_to_stop = asked_to_stop

    def wrap(self, model: Model) -> nn.Module:
        """The model itself, on this process's device."""
        return model.to(self.device)

    def accumulating(self, model: nn.Module) -> AbstractContextManager[None]:
        """Nothing: gradients stay here anyway."""
        return nullcontext()

    def add_up(self, sums: Mapping[str, npt.NDArray[np.float64]]) -> Sums:
        """The sums as they are."""
        return dict(sums)

    def gather(self, value: float) -> list[float]:
        """The one value."""
        return [value]

    def should_stop(self) -> bool:
        """What the launcher says."""
        return self.asked_to_stop()


class TorchWorker(Worker):
    """A member of torch's default process group, which others set up: torchrun, Ray Train or a test."""

    def __init__(
        self,
        device: torch.device,
        asked_to_stop: Callable[[], bool] = lambda: False,
        *,
        strategy: Literal["ddp", "fsdp"] = "ddp",
        precision: str = "fp32",
    ) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.device = device
        self.asked_to_stop = asked_to_stop
        self.strategy = strategy
        self.precision = precision

    def wrap(self, model: Model) -> nn.Module:
        """DistributedDataParallel or FSDP2 over the process group."""
        if self.is_sharded:
            return shard(model.to(self.device), self.device, self.world_size, self.precision)
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(
            model.to(self.device), device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
        )

    def accumulating(self, model: nn.Module) -> AbstractContextManager[None]:
        """DDP's `no_sync`; of FSDP2 the same, in its own words."""
        if isinstance(model, FSDPModule):
            return without_reduction(model)
        return cast(DistributedDataParallel, model).no_sync()  # type: ignore[no-untyped-call,no-any-return]

    def add_up(self, sums: Mapping[str, npt.NDArray[np.float64]]) -> Sums:
        """One all-reduce of all sums, flattened in the order of their names."""
        names = sorted(sums)
        arrays = [np.asarray(sums[name], dtype=np.float64) for name in names]
        flat = torch.from_numpy(np.concatenate([array.reshape(-1) for array in arrays])).to(self.device)
        dist.all_reduce(flat)
        pieces = np.split(flat.cpu().numpy(), np.cumsum([array.size for array in arrays])[:-1])
        return {name: piece.reshape(array.shape) for name, piece, array in zip(names, pieces, arrays, strict=True)}

    def gather(self, value: float) -> list[float]:
        """One all-gather of a double a worker."""
        mine = torch.tensor([value], dtype=torch.float64, device=self.device)
        everyone = [torch.empty_like(mine) for _ in range(self.world_size)]
        dist.all_gather(everyone, mine)
        return [float(each.item()) for each in everyone]

    def should_stop(self) -> bool:
        """What the launcher says; asked of rank 0 only, which is enough as the answers are added up."""
        return self.rank == 0 and self.asked_to_stop()


def set_threads(threads: int) -> None:
    """Fix the number of threads that torch computes with in this process."""
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)


def memory_mb(device: torch.device) -> float:
    """Memory that this process holds, in MB of 1e6 bytes: the most so far on a GPU, what is resident now elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    import psutil

    return float(psutil.Process().memory_info().rss) / 1e6


def state_of_effect(worker: Worker, model: nn.Module, precision: str) -> dict[str, Any]:
    """What is in effect, not what was asked for: for the log and the checkpoint."""
    trained, total = count_parameters(model)
    return {
        "strategy": worker.strategy,
        "world_size": worker.world_size,
        "device": str(worker.device),
        "precision": precision,
        "matmul": torch.get_float32_matmul_precision(),
        "compiled_layers": sum(layer._compiled_call_impl is not None for layer in model.modules()),
        "threads_per_worker": torch.get_num_threads(),
        "torch": torch.__version__,
        "parameters": total,
        "trained_parameters": trained,
    }
