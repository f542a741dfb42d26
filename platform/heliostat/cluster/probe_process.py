"""One process of a probe: the first updates of a run, a validation and a checkpoint, with their seconds and memory.

    python -m heliostat.cluster.probe_process TOLD.json

It trains in a scratch folder that its parent removes. What it finds goes into the file that TOLD names.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from heliostat.batch import Batch
    from heliostat.data.shards import Shards
    from heliostat.train.trainee import Trainee
    from heliostat.train.worker import Worker


def import_all() -> None:
    """Import what a training imports, so that its memory is told apart from the training's own."""
    import pyarrow  # noqa: F401
    import transformers  # noqa: F401

    import heliostat.data.prepared
    import heliostat.train.loop
    import heliostat.train.trainee
    import heliostat.train.worker  # noqa: F401

    with suppress(ImportError):
        import torch.utils.tensorboard  # noqa: F401


def reset_peak() -> int:
    """Begin to watch this process's memory; the bytes that are resident now."""
    with suppress(OSError):  # the kernel's own mark of the most; without it the mark is of the whole life
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _resident("VmRSS")


def peak() -> int:
    """The most bytes that were resident since `reset_peak`."""
    return _resident("VmHWM")


def _resident(what: str) -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith(f"{what}:"))
    return int(line.split()[1]) * 1024


@dataclass(frozen=True)
class Sample:
    """Some rows of a split, drawn evenly, in place of all of them: a large valid split would take longer than 20 steps.

    It has what a validation asks of `Shards`.
    """

    shards: Shards
    rows: npt.NDArray[np.int64]

    @classmethod
    def of(cls, shards: Shards, max_tokens: int) -> Sample:
        """As many rows as hold about `max_tokens` tokens."""
        total = int(shards.lengths.sum(dtype=np.int64))
        count = len(shards) if total <= max_tokens else max(1, len(shards) * max_tokens // total)
        return cls(shards, np.linspace(0, len(shards), count, endpoint=False).astype(np.int64))

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def ids(self) -> npt.NDArray[np.uint64]:
        """As of `Shards`."""
        return self.shards.ids[self.rows]

    @cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """As of `Shards`."""
        return self.shards.lengths[self.rows]

    def batch(self, rows: npt.NDArray[np.int64]) -> Batch:
        """As of `Shards`."""
        return self.shards.batch(self.rows[rows])


@contextmanager
def _member(told: dict[str, Any]) -> Iterator[Worker]:
    """This process as a worker, alone or of a process group over a file that all of them see."""
    import torch
    import torch.distributed as dist

    from heliostat.run import check
    from heliostat.train.worker import LocalWorker, TorchWorker, set_threads

    set_threads(told["threads"])
    if told["world_size"] == 1:
        yield LocalWorker()
        return
    run, has_gpu = check(told["run"]), torch.cuda.is_available()
    device = torch.device("cuda", told["rank"]) if has_gpu else torch.device("cpu")
    if has_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if has_gpu else "gloo",
        init_method=f"file://{told['meeting']}",
        rank=told["rank"],
        world_size=told["world_size"],
    )
    yield TorchWorker(device, strategy=run.scaling.strategy, precision=run.train.precision)
    dist.destroy_process_group()


def probe(told: dict[str, Any]) -> dict[str, Any]:
    """Make the first updates of a run; seconds of each part and the most memory."""
    import_all()
    from heliostat.data.prepared import Prepared
    from heliostat.run import check
    from heliostat.train.memory import keep_memory
    from heliostat.train.trainee import Trainee

    run, prepared = check(told["run"]), Prepared.open(Path(told["prepared"]))
    with _member(told) as worker:
        baseline, began = reset_peak(), time.perf_counter()
        keep_memory()
        trainee = Trainee.build(run, prepared, worker, Path(told["folder"]))
        trainee.restore()
        trainee.journal.open(0)
        build_s = time.perf_counter() - began
        steps = _steps(trainee, told["steps"])
        rest = _validate_and_save(trainee)
        trainee.close("finished")
        found = {"build_s": build_s, **steps, **rest, "baseline_bytes": baseline, "peak_bytes": peak() - baseline}
        if worker.device.type == "cuda":
            import torch

            found |= {"gpu_bytes": torch.cuda.max_memory_reserved(worker.device)}
        return {**found, "device": str(worker.device)}


def _steps(trainee: Trainee, count: int) -> dict[str, Any]:
    """`count` updates from the start of the plan, then the one that weighs most, which only memory is asked of."""
    from heliostat.train.progress import Timetable
    from heliostat.train.schedule import lr_at
    from heliostat.train.update import update

    timetable = Timetable.of(trainee.run.train, trainee.plan)
    position, seconds, tokens = trainee.position, [], []
    resident: list[int] = []
    batches = trainee.plan.batches(0)
    for _ in range(min(count, timetable.num_steps)):
        began = time.perf_counter()
        if position.batch == 0:
            batches = trainee.plan.batches(position.epoch)
        after = timetable.next(position)
        lr = lr_at(timetable.progress(position), trainee.run.train)
        made = update(trainee, next(batches), position, lr)
        trainee.log(made, after, lr, timetable.num_steps)
        _wait_for(trainee)
        position = after
        seconds.append(time.perf_counter() - began)
        tokens.append(made.tokens)
        resident.append(_resident("VmRSS"))
    update(trainee, heaviest(trainee), position, 0.0)
    _wait_for(trainee)
    return {"step_s": seconds, "step_tokens": tokens, "step_bytes": resident}


def heaviest(trainee: Trainee) -> npt.NDArray[np.int64]:
    """The rows of the batch of the first epoch whose attention takes the most: the largest sum of squared lengths."""
    lengths = trainee.plan.lengths
    return max(trainee.plan.batches(0), key=lambda rows: int(np.square(lengths[rows], dtype=np.int64).sum()))


def _wait_for(trainee: Trainee) -> None:
    if trainee.worker.device.type == "cuda":
        import torch

        torch.cuda.synchronize()


def _validate_and_save(trainee: Trainee) -> dict[str, Any]:
    """Two validations, of which the first meets new shapes, and a checkpoint after each, as a training makes them."""
    valid = Sample.of(trainee.valid, 40 * trainee.run.train.tokens_per_batch)
    share = int(valid.lengths.sum(dtype=np.int64)) / max(1, int(trainee.valid.lengths.sum(dtype=np.int64)))
    trainee.valid = cast("Shards", valid)
    validate_s, save_s = [], []
    for _ in range(2):
        began = time.perf_counter()
        _, validation = trainee.scored(trainee.position)
        validate_s.append((time.perf_counter() - began) / max(share, 1e-9))
        began = time.perf_counter()
        trainee.save(trainee.position, [validation])
        save_s.append(time.perf_counter() - began)
    began = time.perf_counter()
    trainee.settle()
    return {"validate_s": validate_s, "save_s": save_s, "settle_s": time.perf_counter() - began}


def main() -> None:
    """Read what is told, probe, write what was found."""
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found = probe(told)
    out = Path(told["out"])
    out.with_suffix(".staged").write_text(json.dumps(found), encoding="utf-8")
    out.with_suffix(".staged").replace(out)
    sys.stdout.flush()
    os._exit(0)  # threads of gloo may stand in the way of an orderly end


if __name__ == "__main__":
    main()
