"""Machines to train on, with what they cost: a table that users edit, and this machine itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from heliostat.component import Settings
from heliostat.errors import Problem, RunError
from heliostat.train.crew import memory_here, share_of_cores
from heliostat.yaml12 import parse

Positive = Annotated[float, Field(gt=0.0)]


class Machine(Settings):
    """One kind of machine. Memory is in GB of 1e9 bytes, prices are those of an hour of the whole machine."""

    cpus: Annotated[int, Field(ge=1)]
    """Cores, not threads of cores."""
    memory_gb: Positive
    gpus: Annotated[int, Field(ge=0)] = 0
    gpu_memory_gb: Positive | None = None
    """Of one GPU."""
    tflops: Positive
    """Dense bf16 products of one GPU, or of all cores where there is no GPU, in 1e12 operations a second."""
    efficiency: Annotated[float, Field(gt=0.0, le=1.0)]
    """The share of them that a training reaches; a probe on such a machine says it better."""
    link_gb_s: Positive | None = None
    """Between the GPUs of one machine, in GB a second and direction."""
    network_gbit_s: Positive = 10.0
    """Between machines."""
    usd_per_hour: Annotated[float, Field(ge=0.0)] = 0.0
    name: str = ""

    @property
    def most_workers(self) -> int:
        """One a GPU, or one where there are none: its threads share the cores."""
        return self.gpus or 1

    @property
    def room_bytes(self) -> float:
        """Memory that one worker may fill: a tenth is left to what nobody foresees."""
        room = self.gpu_memory_gb if self.gpus else self.memory_gb
        return 0.9e9 * (room or 0.0)


def read_machines(path: Path) -> list[Machine]:
    """The machines of a price table (`machines: {name: {...}}`). Raises RunError with every mistake at once."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError([Problem(str(path), f"cannot be read: {error.strerror}. Copy cluster/machines.yaml.")]) from None
    values = parse(text, str(path))
    table = values.get("machines") if isinstance(values, dict) else None
    if not isinstance(table, dict) or not table or set(values) != {"machines"}:
        rule = (
            "holds one key, 'machines', and under it a name and its values for each machine, as cluster/machines.yaml."
        )
        raise RunError([Problem("", rule)], source=str(path))
    try:
        found = TypeAdapter(dict[str, Machine]).validate_python(table)
    except ValidationError as error:
        problems = [Problem(".".join(map(str, each["loc"])), each["msg"]) for each in error.errors()]
        raise RunError(problems, source=str(path)) from None
    problems = [
        Problem(f"{name}.gpu_memory_gb", "is needed where there are gpus, and has no effect where there are none.")
        for name, each in found.items()
        if bool(each.gpus) != (each.gpu_memory_gb is not None)
    ]
    if problems:
        raise RunError(problems, source=str(path))
    return [each.model_copy(update={"name": name}) for name, each in found.items()]


def this_machine(precision: str, efficiency: float = 0.2) -> Machine:
    """The machine that this process runs on; its products are measured for half a second."""
    import torch

    gpus = torch.cuda.device_count()
    gpu_gb = torch.cuda.get_device_properties(0).total_memory / 1e9 if gpus else None
    cores = share_of_cores(1)
    return Machine(
        name="this machine",
        cpus=cores,
        memory_gb=memory_here() / 1e9,
        gpus=gpus,
        gpu_memory_gb=gpu_gb,
        tflops=best_products(precision, cores) / 1e12,
        efficiency=efficiency,
    )


def best_products(precision: str, threads: int, size: int = 2048, seconds: float = 0.5) -> float:
    """Operations a second of the best square product here, in the run's number format."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    before, fastest = torch.get_num_threads(), float("inf")
    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        began = time.perf_counter()
        torch.mm(one, other)
        if device == "cuda":
            torch.cuda.synchronize()
        fastest = min(fastest, time.perf_counter() - began)
    torch.set_num_threads(before)
    return 2.0 * size**3 / fastest
