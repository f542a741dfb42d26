"""What every benchmark here needs: the machine in words, fixed threads, clocks, and medians with their intervals.

Importing it imports no torch, so that a benchmark can fix threads before torch looks at them.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

Facts = Mapping[str, Mapping[str, Any]]
"""One round: what each side's turn found, by side."""

LIBRARIES = ("torch", "transformers", "accelerate", "ray", "datasets", "tokenizers", "numpy")
"""Whose versions a result names, where they are installed."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """The machine and the libraries in words: what a reader needs to know before comparing figures."""
    flags = _cpu_info("flags").split()
    units = [name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if name in flags]
    versions = {name: found for name in LIBRARIES if (found := _version(name))}
    return {
        **({"gpu": found} if (found := _gpu()) else {}),
        "cpu": _cpu_info("model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "amx": "amx_bf16" in flags,
        "units": units,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": versions,
    }


def in_words(found: dict[str, Any]) -> str:
    """One line of `machine()`."""
    matrix = "with AMX" if found["amx"] else "without AMX"
    libraries = ", ".join(f"{name} {number}" for name, number in found["libraries"].items())
    device = f"{found['gpu']}, " if found.get("gpu") else ""
    return f"{device}{found['cpu']}, {found['cores']} cores {matrix}, {found['memory_gb']} GB; {libraries}"


def _cpu_info(key: str) -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _gpu() -> str:
    """The model of the first GPU of NVIDIA."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def fix_threads(threads: int) -> None:
    """Compute with so many threads in this process and those that it starts. Call it before torch is imported."""
    for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[key] = str(threads)
    import torch

    torch.set_num_threads(threads)


@dataclass
class Clock:
    """Wall and CPU seconds of this process between `start` and `stop`; CPU seconds are those of all its threads."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    _began: tuple[float, float] = field(default=(0.0, 0.0), repr=False)

    def start(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.wall_s += time.perf_counter() - self._began[0]
        self.cpu_s += time.process_time() - self._began[1]


@contextmanager
def clocked() -> Iterator[Clock]:
    """The clock of a block: read it when the block is left."""
    clock = Clock()
    clock.start()
    yield clock
    clock.stop()


def best_product_flops(precision: str, size: int = 2048, seconds: float = 1.0) -> float:
    """Floating-point operations a second of the best square product, with the threads of this process.

    What MFU is a share of: measured here and now, because no data sheet knows this machine's clock.
    """
    import torch

    from heliostat.cluster.prices import best_products

    return best_products(precision, torch.get_num_threads(), size, seconds)


class Interval(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def times(self) -> str:
        """As a factor: `4.4× (4.2, 4.6)`."""
        digits = 1 if self.value < 20 else 0
        return f"{self.value:.{digits}f}× ({self.low:.{digits}f}, {self.high:.{digits}f})"


def median_of(values: Sequence[float], resamples: int = 2000) -> Interval:
    """The median with its percentile-bootstrap interval (Efron 1979); of few values that is almost their range.

    The draws are always the same, so that a table made again from the same rounds is the same.
    """
    import numpy as np

    found = np.asarray(values, dtype=np.float64)
    places = np.random.default_rng(7).integers(0, len(found), (resamples, len(found)))
    low, high = np.percentile(np.median(found[places], axis=1), [2.5, 97.5])
    return Interval(float(np.median(found)), float(low), float(high))


def faster(rounds: Sequence[Facts], ours: str, theirs: str, key: str = "wall_s") -> Interval:
    """How many times less of `key` our side took: the median over rounds of the ratio within a round."""
    return median_of([each[theirs][key] / each[ours][key] for each in rounds if ours in each and theirs in each])


def middle(rounds: Sequence[Facts], side: str, key: str) -> float:
    """The median of one fact of one side."""
    return median_of([float(each[side][key]) for each in rounds if side in each]).value


def others_load(seconds: float = 2.0) -> float:
    """The share of all cores that other processes use while this one sleeps."""
    import psutil

    return float(psutil.cpu_percent(interval=seconds)) / 100.0
