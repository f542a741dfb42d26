"""A training under torchrun: `torchrun --nproc-per-node 2 -m heliostat train RUN`.

Every process runs the same command. The first one opens the run and prepares the data while the others wait; then all
of them train in one process group. After a lost process torchrun starts all again, and they go on with the same run.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from heliostat.errors import HeliostatError, TrainError
from heliostat.run import Run

if TYPE_CHECKING:
    import torch

_KEYS = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"),
    *("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"),
)
"""What torchrun sets. Ray Train sets some of them, too, in processes that are none of ours to join."""
_PREPARATION = timedelta(days=2)
"""What the others wait for the first at most while it prepares the data."""
_EXCHANGE = timedelta(minutes=10)
"""What an exchange within training takes at most."""
T = TypeVar("T")


class Place(NamedTuple):
    """Where this process stands among those that torchrun started."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    restarts: int
    """How often torchrun has started all processes again."""


def place() -> Place | None:
    """Where torchrun put this process; None when it was started otherwise."""
    if not all(key in os.environ for key in _KEYS):
        return None
    rank, local_rank, world_size, local_world_size, restarts = (int(os.environ[key]) for key in _KEYS[:5])
    return Place(rank, local_rank, world_size, local_world_size, restarts)


def is_follower() -> bool:
    """Whether another process of the same training speaks to the user, evaluates and stores."""
    here = place()
    return here is not None and here.rank > 0


def check_world_size(run: Run, here: Place) -> None:
    """Raises TrainError when torchrun started another number of processes than the run asks for."""
    least, most = run.scaling.least_workers, run.scaling.most_workers
    if most > 1 and not least <= here.world_size <= most:
        asked = least if least == most else f"{least} to {most}"
        raise TrainError(
            f"scaling.num_workers is {asked} and torchrun started {here.world_size}: make them equal, or leave "
            "scaling.num_workers out and torchrun decides."
        )


class Group:
    """All processes of a training. `device` is the one that this process computes on."""

    def __init__(self, here: Place, device: torch.device) -> None:
        self.here = here
        self.device = device
        self._control: Any = None

    def agree(self, first: Callable[[], T]) -> T:
        """What `first` returns on the first process, as plain values; the others wait for it.

        When it raises there, the others end without a word.
        """
        import torch.distributed as dist

        self._control = self._control or dist.new_group(backend="gloo", timeout=_PREPARATION)
        told: list[Any] = [None]
        if self.here.rank > 0:
            dist.broadcast_object_list(told, src=0, group=self._control)
            if "ended" in told[0]:
                raise SystemExit(told[0]["ended"])
            return told[0]["value"]  # type: ignore[no-any-return]
        try:
            value = first()
        except BaseException as error:
            ended = error.exit_code if isinstance(error, HeliostatError) else 1
            dist.broadcast_object_list([{"ended": ended}], src=0, group=self._control)
            raise
        dist.broadcast_object_list([{"value": value}], src=0, group=self._control)
        return value


@contextmanager
def joined(here: Place) -> Iterator[Group]:
    """This process as a member of the group: NCCL between GPUs, gloo between CPUs."""
    import torch
    import torch.distributed as dist

    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", here.local_rank)
        torch.cuda.set_device(device)
    # torchrun may keep its store over a restart (torch 2.13), with addresses of processes that are gone.
    found = dist.rendezvous("env://", timeout=_EXCHANGE)  # type: ignore[attr-defined]
    meeting, rank, world_size = next(iter(found))
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.PrefixStore(f"heliostat/{here.restarts}", meeting),  # type: ignore[attr-defined]
        rank=rank,
        world_size=world_size,
        timeout=_EXCHANGE,
    )
    try:
        yield Group(here, device)
    finally:
        dist.destroy_process_group()


def claim(folder: Path) -> None:
    """Note that this torchrun trains the run in `folder`, so that it goes on with it after a restart."""
    (folder / "torchrun.json").write_text(json.dumps({"agent": _agent()}), encoding="utf-8")


def claimed(runs: Path) -> str | None:
    """The id of the run that this torchrun was training before it started its processes again."""
    for path in sorted(runs.glob("*/torchrun.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        if json.loads(path.read_text(encoding="utf-8"))["agent"] == _agent():
            return path.parent.name
    return None


def _agent() -> str:
    """The process of torchrun on this machine, which outlives its workers."""
    return f"{socket.gethostname()}:{os.getppid()}:{os.environ['TORCHELASTIC_RUN_ID']}"
