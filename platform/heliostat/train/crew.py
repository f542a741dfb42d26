"""How many workers share a run, and whether this process is the only one."""

from __future__ import annotations

import os

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


def workers_on_ray(scaling: ScalingSettings) -> int | tuple[int, int]:
    """What Ray is asked for: as the run says, or with auto a worker a GPU, or a machine with CPUs where there are none.

    Ray must be connected.
    """
    import ray

    if scaling.num_workers != AUTO:
        return scaling.num_workers
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(each.get("GPU", 0) for each in nodes))
    return gpus or max(1, sum(each.get("CPU", 0) >= 1 for each in nodes))
