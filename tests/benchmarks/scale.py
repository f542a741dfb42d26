"""How training scales: tokens/s with one and two one-thread workers, measured; then 8 to 1,024 GPUs, simulated.

The simulation is arithmetic over costs that the turn `costs` measures: seconds of an update's computing at two sizes
(a line: so much a token, so much an update), of an all-reduce between two processes at two sizes (latency, bytes a
second), of making batches, how much two busy processes slow each other down, and what Ray takes of their cores. It says
what two workers reach, which stands beside what they did reach. For GPUs the computing and the wires are assumed
(`GPU`, `NETWORK`, `JITTER`, `HIDDEN`), the rest is measured; every row says so.
"""

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
from typing import Any, NamedTuple

from measure import Facts, median_of, middle
from rounds import Benchmark, Case, Row, Settings, run

FULL = {"limit": 6000, "tokens": 8192, "warm": 2, "steps": 10, "sizes": [2048, 8192], "repeats": 2}
QUICK = {"limit": 600, "tokens": 1024, "warm": 1, "steps": 4, "sizes": [512, 1024], "repeats": 2}
CASES = {"scale": Case(("one", "two", "costs"), FULL, QUICK)}

GPU: dict[str, float] = {
    "products_per_s": 989e12,  # an H100's dense bf16 products, by its data sheet
    "efficiency": 0.35,  # of them, in a training; 0.35 to 0.5 are published for encoders of this size
    "update_s": 0.004,  # launching kernels and the optimiser, an update
    "per_machine": 8,
    "link_bytes_per_s": 350e9,  # between GPUs of a machine, NVLink, a ring's
    "tokens": 16384,  # a GPU and update
    "parameters": 110e6,  # BERT-base
    "flops_per_token": 6 * 86e6 + 12 * 12 * 768 * 128 * 2,  # six a weight of its layers; attention over 128 tokens
    "gradient_bytes": 4 * 110e6,
}
NETWORK: dict[str, tuple[float, float]] = {
    # bytes a second of one machine, and seconds until a message arrives
    "400 GB/s (8 cards of 400 Gbit/s)": (400e9, 20e-6),
    "12.5 GB/s (100 Gbit/s)": (12.5e9, 30e-6),
}
JITTER = 0.02
"""How much the seconds of a worker's update vary (assumed): of many, all wait for the slowest."""
HIDDEN = 0.7
"""Share of backward, itself two thirds of the computing, behind which DDP's buckets can travel (assumed)."""
WORLDS = (8, 64, 256, 1024)


class Costs(NamedTuple):
    """Seconds, of one worker."""

    token_s: float
    """Computing, a token."""
    update_s: float
    """Whatever an update costs however few tokens it has: the optimiser, bookkeeping."""
    ingest_s: float
    """Making batches, a token."""
    gradient_bytes: float
    latency_s: float
    """Of a message."""
    bytes_per_s: float
    """Between two workers."""
    beside: float = 1.0
    """How many times longer computing takes beside other workers on the same machine."""
    uneven: float = 1.0
    """The largest share of a batch over the mean one."""
    ray: float = 0.0
    """What Ray's own processes take of the cores of workers, where those have no others: cores."""


def all_reduce_s(num_bytes: float, world: int, bytes_per_s: float, latency_s: float) -> float:
    """A ring's: 2 (W - 1) messages, and 2 (W - 1) / W of the bytes through each worker (Patarasuk and Yuan 2009)."""
    return 0.0 if world == 1 else 2 * (world - 1) * (latency_s + num_bytes / world / bytes_per_s)


def tree_s(num_bytes: float, machines: int, bytes_per_s: float, latency_s: float) -> float:
    """Between machines, where a ring of hundreds would wait for latencies: a double tree's (Sanders et al. 2009)."""
    if machines == 1:
        return 0.0
    return 2 * (num_bytes / bytes_per_s + latency_s * (machines - 1).bit_length())


def update_s(costs: Costs, tokens: float, world: int, *, exchange_s: float, hidden: float = 0.0) -> float:
    """Seconds of an update of `tokens` over all workers; bytes travel behind the share `hidden` of backward."""
    mine = tokens / world * (costs.uneven if world > 1 else 1.0)
    compute = mine * costs.token_s * (costs.beside if world > 1 else 1.0)
    exposed = max(0.0, exchange_s - hidden * compute * 2 / 3)
    # Who loses some of a core lets the others wait.
    return (compute + exposed + costs.update_s + mine * costs.ingest_s) * (1 + costs.ray if world > 1 else 1.0)


def two_workers(costs: Costs, tokens: float) -> tuple[float, float]:
    """Tokens a second that the simulation expects of one worker and of two, on this machine."""
    exchange = all_reduce_s(costs.gradient_bytes, 2, costs.bytes_per_s, costs.latency_s)
    return tokens / update_s(costs, tokens, 1, exchange_s=0.0), tokens / update_s(costs, tokens, 2, exchange_s=exchange)


def gpus(costs: Costs, world: int, network: tuple[float, float]) -> tuple[float, float]:
    """Tokens a second on so many GPUs, each with the same tokens, and the share of `world` times one GPU."""
    token_s = GPU["flops_per_token"] / (GPU["products_per_s"] * GPU["efficiency"])
    one = costs._replace(token_s=token_s, update_s=GPU["update_s"], beside=1.0, ray=0.0)
    tokens = GPU["tokens"] * world
    inside = min(world, int(GPU["per_machine"]))
    exchange = all_reduce_s(GPU["gradient_bytes"], inside, GPU["link_bytes_per_s"], 5e-6)
    exchange += tree_s(GPU["gradient_bytes"], world // inside, *network)
    alone = GPU["tokens"] / update_s(one, GPU["tokens"], 1, exchange_s=0.0)
    slowest = 1 + JITTER * math.sqrt(2 * math.log(world))  # the largest of so many normal draws, about
    together = tokens / (slowest * update_s(one, tokens, world, exchange_s=exchange, hidden=HIDDEN))
    return together, together / (world * alone)


def run_of(settings: Settings, workers: int) -> Any:
    """The run of every side: MiniLM fine-tuned on reviews."""
    from ours import loaded

    return loaded(
        "sentiment/pretrained",
        [f"train.max_steps={settings['steps']}", "train.ema=null", "data.split={by: hash, valid: 0.02, test: 0.02}"],
        **{"data.limit": settings["limit"], "train.tokens_per_batch": settings["tokens"], "train.epochs": 50},
        **{"train.tokens_per_micro_batch": settings["tokens"], "train.evaluations_per_epoch": 1},
        **{"scaling.num_workers": workers, "scaling.threads_per_worker": 1},
    )


def turn(case: str, side: str, settings: Settings) -> dict[str, Any]:
    if side == "costs":
        return measured_costs(settings)
    import ours

    return ours.train(run_of(settings, 1 if side == "one" else 2), settings["warm"])


def measured_costs(settings: Settings) -> dict[str, Any]:
    """What two processes measure, first the one alone and then both at once."""
    import ours

    ours.prepared_of(run_of(settings, 1))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        members = []
        for rank in (0, 1):
            told = {"rank": rank, "folder": folder, "settings": dict(settings)}
            command = [sys.executable, __file__, "--member", json.dumps(told)]
            members.append(subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}))
        codes = [member.wait() for member in members]
        if any(codes):
            raise SystemExit(f"the members ended with {codes}")
        found: dict[str, Any] = json.loads(Path(folder, "costs.json").read_text(encoding="utf-8"))
    spent = time.perf_counter() - began
    return {**found, "wall_s": spent, "cpu_s": spent}


def member(rank: int, folder: str, settings: dict[str, Any]) -> None:
    """One of the two processes: computing alone and beside the other, then all-reduces between them."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    trainee, rows = _trainee(settings, Path(folder, f"run-{rank}"))
    small, large = settings["sizes"]
    alone = {}
    for size in (small, large):
        if rank == 0:
            alone[size] = _update(trainee, rows, size, settings["repeats"])
        dist.barrier()
    beside = _update(trainee, rows, large, settings["repeats"])
    dist.barrier()
    num_bytes = 4 * sum(each.numel() for each in trainee.model.parameters() if each.requires_grad)
    little, all_of_it = _exchange(4096), _exchange(num_bytes // 4)
    if rank == 0:
        (few, few_s, _), (many, many_s, ingest_s) = alone[small], alone[large]
        token_s = (many_s - few_s) / (many - few)
        latency_s = little / 2
        found = Costs(
            token_s=token_s,
            update_s=max(0.0, many_s - token_s * many),
            ingest_s=ingest_s / many,
            gradient_bytes=num_bytes,
            latency_s=latency_s,
            bytes_per_s=num_bytes / max(1e-9, all_of_it - little),
            beside=beside[1] / many_s,
            uneven=_uneven(trainee),
        )
        Path(folder, "costs.json").write_text(json.dumps(found._asdict()), encoding="utf-8")
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)


def _trainee(settings: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    """A worker that trains alone, and the rows of a batch."""
    import ours
    from heliostat.train.memory import keep_memory
    from heliostat.train.trainee import Trainee
    from heliostat.train.worker import LocalWorker

    keep_memory()  # as every training does
    one = run_of(settings, 1)
    trainee = Trainee.build(one, ours.prepared_of(one), LocalWorker(), folder)
    return trainee, next(trainee.plan.batches(0))


def _update(trainee: Any, rows: Any, size: int, repeats: int) -> tuple[int, float, float]:
    """Tokens of an update of about `size`, its seconds without the making of batches, and those of the making."""
    import numpy as np

    from heliostat.batch import Draws
    from heliostat.data.drawn import drawn
    from heliostat.train.update import update

    lengths = trainee.plan.lengths[rows]
    mine = rows[: max(1, int(np.searchsorted(np.cumsum(lengths), size, side="right")))]
    spent, making = [], []
    for number in range(repeats + 1):
        began = time.perf_counter()
        drawn(trainee.train, mine, trainee.parts.head, Draws(7, number), trainee.spec)
        middle_s = time.perf_counter()
        update(trainee, mine, trainee.position, 1e-4)
        making.append(middle_s - began)
        spent.append(time.perf_counter() - middle_s)
    seconds, ingest = median_of(spent[1:]).value, median_of(making[1:]).value
    return int(trainee.plan.lengths[mine].sum()), seconds - ingest, ingest


def _exchange(numbers: int, repeats: int = 7) -> float:
    """Seconds of an all-reduce of so many fp32 numbers."""
    import torch
    import torch.distributed as dist

    values, spent = torch.ones(numbers), []
    for _ in range(repeats):
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(values)
        spent.append(time.perf_counter() - began)
    return median_of(spent).value


def _uneven(trainee: Any) -> float:
    """How much more than the mean the fuller of two workers gets of a batch."""
    from heliostat.data.plan import share

    lengths = trainee.plan.lengths
    ratios = []
    for rows, _ in zip(trainee.plan.batches(0), range(20), strict=False):
        most = max(int(lengths[share(rows, lengths, rank, 2)].sum()) for rank in (0, 1))
        ratios.append(2 * most / int(lengths[rows].sum()))
    return median_of(ratios).value


def rows(case: str, rounds: Sequence[Facts], settings: Settings) -> list[Row]:
    ratio = median_of([each["two"]["tokens_per_s"] / each["one"]["tokens_per_s"] for each in rounds])
    measured = {name: middle(rounds, "costs", name) for name in Costs._fields if name != "ray"}
    own = [(each["two"]["cpu_s"] - each["two"]["workers_cpu_s"]) / each["two"]["wall_s"] for each in rounds]
    costs = Costs(**measured, ray=median_of(own).value)
    found = {side: middle(rounds, side, "tokens_per_s") for side in ("one", "two")}
    simulated = two_workers(costs, settings["tokens"])
    rows = [
        Row(
            what="training, 2 workers of one thread",
            beside="1 worker of one thread",
            ours=f"{found['two']:,.0f} tokens/s",
            theirs=f"{found['one']:,.0f} tokens/s",
            faster=f"{ratio.value:.2f}× ({ratio.low:.2f}, {ratio.high:.2f})",
            cpu="",
            equal=f"same global batches of {settings['tokens']:,} tokens",
            goal="1.8× (1.6×)",
        )
    ]
    for side, expected in zip(("one", "two"), simulated, strict=True):
        told = f"the simulation, {side} worker{'s' if side == 'two' else ''}"
        rows.append(
            _simulated(told, f"{expected:,.0f} tokens/s", f"{found[side]:,.0f} tokens/s", expected / found[side])
        )
    for name, network in NETWORK.items():
        for world in WORLDS:
            rate, share = gpus(costs, world, network)
            told = f"simulated: {world:,} H100s, {name} a machine"
            rows.append(
                Row(told, "so many times one GPU", f"{rate:,.0f} tokens/s", "", f"{share:.0%}", "", _assumed(), "")
            )
    return rows


def _simulated(what: str, expected: str, measured: str, ratio: float) -> Row:
    return Row(what, "as measured", expected, measured, f"{ratio - 1:+.1%}", "", "costs measured one by one", "")


def _assumed() -> str:
    return (
        f"assumed: {GPU['tokens']:,.0f} tokens a GPU and update, BERT-base at {GPU['efficiency']:.0%} of "
        f"{GPU['products_per_s'] / 1e12:.0f} TFLOP/s, fp32 gradients, {HIDDEN:.0%} of backward hides their exchange, "
        f"updates vary by {JITTER:.0%}; "
        "measured: making batches, uneven shares"
    )


if __name__ == "__main__":
    if "--member" in sys.argv:
        member(**json.loads(sys.argv[-1]))
    run(Benchmark("scale", __file__, CASES, turn, rows))
