"""A function on real workers: processes of Ray Train with a gloo process group."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heliostat.train.worker import Worker


def run_on_workers(fn: Callable[[Worker], Any], num_workers: int = 2) -> list[Any]:
    """What `fn(worker)` returns on each of `num_workers` Ray Train workers, by rank.

    `worker` is one of a process group that can add up, gather and wrap models. What `fn` returns must be plain JSON
    values. Raises the first error of a worker.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from heliostat.ray_session import ray_session
    from heliostat.train.on_ray import check_resources

    with tempfile.TemporaryDirectory(prefix="heliostat-workers-") as folder, ray_session(Path(folder) / "ray.log"):
        trainer = TorchTrainer(
            _work,
            train_loop_config={"fn": fn, "folder": folder},
            torch_config=TorchConfig(backend="gloo", timeout_s=120),
            scaling_config=ScalingConfig(
                num_workers=num_workers, resources_per_worker={"CPU": check_resources(num_workers)}
            ),
            run_config=RunConfig(name="workers", storage_path=folder),
        )
        trainer.fit()
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(num_workers)]


def _work(config: dict[str, Any]) -> None:
    import torch

    from heliostat.train.worker import TorchWorker, set_threads

    set_threads(1)
    worker = TorchWorker(torch.device("cpu"))
    answer = json.dumps(config["fn"](worker))
    (Path(config["folder"]) / f"{worker.rank}.json").write_text(answer, encoding="utf-8")
