"""How many workers share a run, whether this process is the only one, and the cores and memory that there are."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from heliostat.errors import TrainError
from heliostat.run import ScalingSettings
from heliostat.run.settings import AUTO


def trains_here(scaling: ScalingSettings) -> bool:
    """Whether this process trains alone. Raises TrainError when it would and the run wants its model sharded."""
    if scaling.num_workers != AUTO:
        return scaling.most_workers == 1
    import torch

    if os.environ.get("RAY_ADDRESS") or torch.cuda.device_count() > 1:
        return False
    if scaling.strategy == "fsdp":
        raise TrainError(
            "scaling.strategy: fsdp has no effect on one machine with one GPU or none: scaling.num_workers=auto takes "
            "one worker there. Set scaling.num_workers to 2 or more, or leave the strategy out."
        )
    return True


def share_of_cores(workers_here: int) -> int:
    """Threads a worker when `workers_here` of them share this machine: two that take all cores each run 10x slower."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _cores_of_container()) // max(1, workers_here))


def memory_here() -> int:
    """Bytes of memory that all processes here may fill together: those of the machine, or fewer in a container."""
    import psutil

    return min(int(psutil.virtual_memory().total), _memory_of_container())


def _memory_of_container(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Bytes after which processes of this container are killed. It sees all of its host's memory."""
    try:
        told = limit.read_text(encoding="ascii").strip()
        return sys.maxsize if told == "max" else int(told)
    except (OSError, ValueError):
        return sys.maxsize


def _cores_of_container(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this container may use. It sees all of its host's, and more threads than it may run are throttled."""
    try:
        quota, period = limit.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return sys.maxsize
    return sys.maxsize if quota == "max" else max(1, math.ceil(int(quota) / int(period)))
