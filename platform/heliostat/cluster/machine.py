"""Checks of this machine: Python and its packages, processors, GPUs, shared memory, open files, ports."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import socket
import subprocess
from importlib import metadata, util
from pathlib import Path

from heliostat.cluster.finding import Finding, State
from heliostat.cluster.needs import lacking, requirements_of
from heliostat.train.crew import memory_here, share_of_cores

FLOORS = {
    "mlflow": ("mlflow>=3.15", "older ones have CVE-2026-96804"),
    "mlflow-skinny": ("mlflow-skinny>=3.15", "older ones have CVE-2026-96804"),
    "lightning": ("lightning!=2.6.2,!=2.6.3", "these two were taken over"),
    "pytorch-lightning": ("pytorch-lightning!=2.6.2,!=2.6.3", "these two were taken over"),
}
"""What may be installed beside us, and from which version on it is safe. Of ray, torch and gradio our own metadata say
so: 2.60, 2.10 (CVE-2026-24747) and 6.20 (CVE-2026-59806)."""
PORTS = {8265: "Ray's dashboard and jobs", 6379: "a Ray head", 8000: "heliostat serve", 7860: "heliostat demo"}
_GIB = float(1 << 30)
_FILES = 65536
_LEAST_FILES = 4096
_SHOWN = ("ray", "torch", "transformers", "gradio")


def python() -> list[Finding]:
    """The Python that runs this."""
    import sys

    return [Finding("python", State.RIGHT, f"{platform.python_version()} ({sys.executable})")]


def distributions() -> list[Finding]:
    """Whether all that we need is there, in versions that fit and are safe."""
    own = list(requirements_of(metadata.distribution("heliostat")))
    lacks = list(lacking(own))
    for name, (floor, why) in FLOORS.items():
        if util.find_spec(name.replace("-", "_")) is not None or _is_installed(name):
            lacks += [f"{sentence} ({why})" for sentence in lacking([floor])]
    mend = "pip install -c constraints.txt -e . (from the repository), then look again."
    if lacks:
        return [Finding("packages", State.WRONG, " ".join(lacks), mend)]
    shown = ", ".join(f"{name} {metadata.version(name)}" for name in _SHOWN)
    return [Finding("packages", State.RIGHT, f"{shown}; all {len(own)} requirements are met")]


def _is_installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def processors() -> list[Finding]:
    """Cores and memory."""
    import psutil

    total = memory_here()
    free = min(total, psutil.virtual_memory().available)
    cores, found = share_of_cores(1), f"{total / _GIB:.0f} GiB of memory, {free / _GIB:.0f} free"
    if free < 2 * _GIB:
        mend = "End other programs: a small training takes 2 GiB."
        return [Finding("processors", State.NOTE, f"{cores} cores, {found}", mend)]
    return [Finding("processors", State.RIGHT, f"{cores} cores, {found}")]


def gpus() -> list[Finding]:
    """GPUs, their driver, and whether torch was built for it."""
    there = sorted(Path("/dev").glob("nvidia[0-9]*"))
    said = _nvidia_smi("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    if not said:
        if there:
            mend = "Install the driver's tools, and in a container start it with --gpus all: nvidia-smi must answer."
            return [Finding("gpu", State.WRONG, f"{len(there)} there, and the driver does not answer", mend)]
        return [Finding("gpu", State.RIGHT, "none: training on processors")]
    cuda, newest = _cuda_of_torch(), _cuda_of_driver()
    found = "; ".join(" ".join(line.split(", ")) for line in said.splitlines())
    if cuda is None:
        mend = "Install torch for CUDA: pip install torch --index-url https://download.pytorch.org/whl/cu128"
        return [Finding("gpu", State.WRONG, f"{found}; this torch was built without CUDA", mend)]
    if newest and int(cuda.partition(".")[0]) > int(newest.partition(".")[0]):
        mend = f"Update the driver, or install a torch for CUDA {newest} or older."
        return [Finding("gpu", State.WRONG, f"{found}; torch wants CUDA {cuda}, the driver has {newest}", mend)]
    return [Finding("gpu", State.RIGHT, f"{found}; torch for CUDA {cuda}")]


def _nvidia_smi(*words: str) -> str:
    if not shutil.which("nvidia-smi"):
        return ""
    try:
        done = subprocess.run(["nvidia-smi", *words], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cuda_of_driver() -> str:
    match = re.search(r"CUDA Version:\s*(\d+\.\d+)", _nvidia_smi())
    return match[1] if match else ""


def _cuda_of_torch() -> str | None:
    """The CUDA that torch was built for, read without importing torch: that takes seconds."""
    spec = util.find_spec("torch")
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8") if spec and spec.origin else ""
    match = re.search(r"^cuda\b[^=]*= *'([\d.]+)'", text, re.MULTILINE)
    return match[1] if match else None


def shared_memory() -> list[Finding]:
    """Whether Ray's object store fits into shared memory."""
    place = Path("/dev/shm")
    if not place.is_dir():
        return [Finding("shared memory", State.NOTE, "there is no /dev/shm: Ray keeps its objects on disk")]
    size, wanted = shutil.disk_usage(place).total, 0.3 * memory_here()
    found = f"{size / _GIB:.1f} GiB in /dev/shm"
    mend = (
        f"Make it {max(1.0, wanted / _GIB):.0f} GiB, a third of the memory: docker run --shm-size, or in Kubernetes an "
        "emptyDir of medium Memory on /dev/shm. Ray falls back to a slow disk."
    )
    if size < min(_GIB, wanted):
        return [Finding("shared memory", State.WRONG, found, mend)]
    return [
        Finding("shared memory", State.NOTE if size < wanted else State.RIGHT, found, mend if size < wanted else "")
    ]


def open_files() -> list[Finding]:
    """How many files a process may have open: Ray has one for each connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ours = max(soft, hard if hard != resource.RLIM_INFINITY else _FILES)  # Ray raises the soft limit itself
    found = f"{soft:,} of {'any number' if hard == resource.RLIM_INFINITY else f'{hard:,}'} at most"
    mend = f"Raise it for clusters: ulimit -n {_FILES} before `ray start`, LimitNOFILE={_FILES} in a unit of systemd."
    if ours < _LEAST_FILES:
        return [Finding("open files", State.WRONG, found, mend)]
    return [Finding("open files", State.NOTE if ours < _FILES else State.RIGHT, found, mend if ours < _FILES else "")]


def ports() -> list[Finding]:
    """Whether the ports that we take by default are free."""
    taken = [port for port in PORTS if _is_taken(port)]
    free = ", ".join(str(port) for port in PORTS if port not in taken)
    findings = [Finding("ports", State.RIGHT, f"{free} are free")] if free else []
    return findings + [
        Finding("ports", State.NOTE, f"{port} ({PORTS[port]}) is in use", _other_port(port)) for port in taken
    ]


def _other_port(port: int) -> str:
    if port in (8265, 6379):
        return "A Ray runs here, or another program. For a second head: ray start --head --port=P --dashboard-port=Q."
    return f"If that is no {PORTS[port]} of yours, take another: --port 0 finds a free one."


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def temporary_folder() -> Path:
    """Where Ray keeps its sessions."""
    return Path(os.environ.get("RAY_TMPDIR") or "/tmp")
