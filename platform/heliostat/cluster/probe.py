"""A measured probe: the first 20 updates of a run in processes of their own, as many as it has workers here."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from heliostat.errors import TrainError
from heliostat.run import Run
from heliostat.train.crew import share_of_cores

if TYPE_CHECKING:
    from heliostat.data.prepared import Prepared

STEPS = 20
WARM = 5
"""Updates before a step takes what it takes from then on: shapes that are new are compiled for."""
BESIDE_RAY = 1.05
"""How much longer workers take that Ray runs on cores which they fill: its own processes compute there, too."""
MOST_GROWN = 2000
"""Updates after which hardly a shape is new."""


class Probe(NamedTuple):
    """What the first updates of a run took, on one worker of `num_workers`."""

    num_workers: int
    threads: int
    device: str
    build_s: float
    """From imported libraries to the first update."""
    step_s: tuple[float, ...]
    step_tokens: tuple[float, ...]
    """Tokens of each global batch."""
    validate_s: tuple[float, ...]
    """Each of a whole validation: scaled up where a part of the split was read."""
    save_s: tuple[float, ...]
    """What a checkpoint holds the training up."""
    settle_s: float
    """Until the last checkpoint is on the disk."""
    baseline_bytes: int
    """Resident before anything is built: Python and its libraries."""
    peak_bytes: int
    """The most that was resident beyond that."""
    step_bytes: tuple[int, ...] = ()
    """What was resident after each update."""
    gpu_bytes: int = 0
    """The most that torch held on the GPU."""

    def most_bytes(self, num_steps: int) -> int:
        """What a training of so many updates takes beyond Python and its libraries, at its most.

        Each new shape of a batch leaves a compiled kernel and gaps between blocks of memory. New shapes come as new
        words do in a text (Heaps 1978): memory grows about as the square root of the updates, by the slope seen here.
        """
        made = len(self.step_bytes)
        if made < 2 * WARM or num_steps <= made:
            return self.peak_bytes
        roots = np.sqrt(np.arange(1, made + 1))[WARM - 1 :]
        slope = max(0.0, float(np.polyfit(roots, self.step_bytes[WARM - 1 :], 1)[0]))
        return self.peak_bytes + round(slope * (math.sqrt(min(num_steps, MOST_GROWN)) - math.sqrt(made)))

    @property
    def steady_s(self) -> float:
        """Seconds of an update once it is warm: the mean without the fastest and slowest tenth."""
        steady = sorted(self.step_s[WARM:] or self.step_s)
        cut = len(steady) // 10
        kept = steady[cut : len(steady) - cut]
        return sum(kept) / len(kept)

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all workers together, once warm."""
        tokens = self.step_tokens[WARM:] or self.step_tokens
        return sum(tokens) / len(tokens) / self.steady_s

    def seconds(self, num_steps: int, validations: int) -> float:
        """Seconds of a training: start, updates, validations, checkpoints; of several workers with Ray beside."""
        made = len(self.step_s)
        steps = sum(self.step_s[:num_steps]) + max(0, num_steps - made) * self.steady_s
        checked = sum(first + (validations - 1) * later for first, later in (self.validate_s, self.save_s))
        return self.build_s + (steps + checked) * (BESIDE_RAY if self.num_workers > 1 else 1.0) + self.settle_s


def workers_here(run: Run) -> int:
    """Workers of `run` that this machine can hold: all that it asks for, or as many as there are GPUs or cores."""
    import torch

    room = torch.cuda.device_count() or share_of_cores(1)
    return max(1, min(run.scaling.most_workers, room))


def probe(run: Run, prepared: Prepared, *, steps: int = STEPS) -> Probe:
    """Make the first `steps` updates of `run`, two validations and two checkpoints, and throw them away.

    A run with more workers than this machine holds is probed with as many as it does. Raises TrainError with what
    the processes said when one of them fails.
    """
    workers = workers_here(run)
    threads = run.scaling.threads_per_worker or share_of_cores(workers)
    with tempfile.TemporaryDirectory(prefix="heliostat-probe-") as scratch:
        found = _run_processes(
            _tellings(_probed(run, workers), prepared.folder, Path(scratch), workers, threads, steps)
        )
    worst = max(found, key=lambda each: int(each["peak_bytes"]))
    first = {**found[0], "peak_bytes": worst["peak_bytes"], "baseline_bytes": worst["baseline_bytes"]}
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in first.items()}
    return Probe(num_workers=workers, threads=threads, **values)


def _probed(run: Run, workers: int) -> dict[str, Any]:
    """The run as its probe trains it: it validates itself, and tells nobody outside."""
    values = run.dump()
    trackers = [name for name in values["train"]["trackers"] if name == "tensorboard"]
    values["train"] |= {"trackers": trackers, "mirror": None, "validation": "inline"}
    strategy = values["scaling"]["strategy"] if workers > 1 else "ddp"
    values["scaling"] |= {"num_workers": workers, "strategy": strategy}
    return values


def _tellings(
    run: dict[str, Any], prepared: Path, scratch: Path, workers: int, threads: int, steps: int
) -> list[dict[str, Any]]:
    common = {"run": run, "prepared": str(prepared), "folder": str(scratch / "run"), "steps": steps}
    common |= {"world_size": workers, "threads": threads, "meeting": str(scratch / "meeting")}
    return [{**common, "rank": rank, "out": str(scratch / f"found-{rank}.json")} for rank in range(workers)]


def _run_processes(tellings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    processes: list[subprocess.Popen[bytes]] = []
    logs = [Path(told["out"]).with_suffix(".log") for told in tellings]
    try:
        for told, log in zip(tellings, logs, strict=True):
            path = Path(told["out"]).with_suffix(".told")
            path.write_text(json.dumps(told), encoding="utf-8")
            command = [sys.executable, "-m", "heliostat.cluster.probe_process", str(path)]
            with log.open("wb") as output:
                environment = {**os.environ, "OMP_NUM_THREADS": str(told["threads"])}
                processes.append(subprocess.Popen(command, stdout=output, stderr=output, env=environment))
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                break  # the others would wait for it
            time.sleep(0.1)
        codes = [process.poll() for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    for code, log in zip(codes, logs, strict=True):
        if code:
            raise TrainError(f"the probe ended with {code}: {_last_line(log)}")
    return [json.loads(Path(told["out"]).read_text(encoding="utf-8")) for told in tellings]


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
