"""Several warm processes in one process group of torch, for as long as a trial trains."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from heliostat.errors import TrainError
from heliostat.train.wire import take_wire


@contextmanager
def joined(
    order: Mapping[str, Any], timeout_s: float, host: str, say: Callable[[Mapping[str, Any]], None]
) -> Iterator[torch.device]:
    """The device of this process, as one of `order["world_size"]` in a group: NCCL between GPUs, gloo between CPUs.

    The first process opens the port at which the others meet it, at `host` alone, and says so; the others find it in
    their orders.
    """
    rank, size, timeout = int(order["rank"]), int(order["world_size"]), timedelta(seconds=timeout_s)
    device = _device(rank, size, is_local=host == "127.0.0.1")
    take_wire(host)
    if rank == 0:
        listener = socket.create_server((host, 0))
        port, descriptor = listener.getsockname()[1], listener.detach()
        store = dist.TCPStore(  # type: ignore[attr-defined]
            host, port, size, is_master=True, timeout=timeout, wait_for_workers=False, master_listen_fd=descriptor
        )
        say({"is": "meeting", "host": host, "port": port})
    else:
        store = dist.TCPStore(order["host"], order["port"], size, is_master=False, timeout=timeout)  # type: ignore
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _device(rank: int, size: int, *, is_local: bool) -> torch.device:
    """A GPU of one's own for each worker; on this machine all workers see the same ones."""
    there = torch.cuda.device_count()
    if not there:
        return torch.device("cpu")
    if is_local and there < size:
        raise TrainError(f"scaling.num_workers is {size} and this machine has {there} GPU(s): take {there} or fewer.")
    device = torch.device("cuda", rank if is_local else 0)  # Ray shows each of its workers the one it has
    torch.cuda.set_device(device)
    return device
