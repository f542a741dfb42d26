"""One of two workers of a training, as a process of its own: `truth_worker.py RANK FOLDER FAULT`.

FOLDER holds run.json and the address of the prepared data. Rank 1 has the fault:

    none      it behaves
    skip      from its fourth update on it takes part in the exchange of gradients and goes on with its own
    greedy    it computes the rows of the whole global batch
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from heliostat.data.prepared import Prepared
from heliostat.errors import TrainError
from heliostat.run import check
from heliostat.train import update
from heliostat.train.loop import fit
from heliostat.train.worker import TorchWorker, set_threads

HEALTHY = 3
"""Updates before the fault sets in."""


class Skipping(TorchWorker):
    """A worker that stops using the gradients of the others."""

    def wrap(self, model: nn.Module) -> nn.Module:
        wrapped: Any = super().wrap(model)
        exchanges = 0

        def exchange(_, bucket):  # type: ignore[no-untyped-def]  # DDP refuses annotations that are text
            nonlocal exchanges
            exchanges += bucket.is_last()
            own, skips = bucket.buffer(), self.rank == 1 and exchanges > HEALTHY
            work = dist.all_reduce(own.clone() / self.world_size, async_op=True)
            return work.get_future().then(lambda done: own if skips else done.value()[0])

        wrapped.register_comm_hook(None, exchange)
        return wrapped


def main(rank: int, folder: Path, fault: str) -> None:
    set_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    if fault == "greedy" and rank == 1:
        update.share = lambda rows, lengths, rank, world_size: rows  # type: ignore[attr-defined]
    kind = Skipping if fault == "skip" else TorchWorker
    run = check(json.loads((folder / "run.json").read_text()))
    prepared = Prepared.open(Path((folder / "prepared.txt").read_text()))
    answer: dict[str, Any]
    try:
        answer = {"step": fit(run, prepared, kind(torch.device("cpu")), folder / "run").step}
    except TrainError as error:
        answer = {"error": str(error)}
    (folder / f"{rank}.json").write_text(json.dumps(answer))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
