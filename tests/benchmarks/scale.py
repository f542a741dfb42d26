"""How training scales: tokens/s with one and two one-thread workers, measured; then 8 to 1,024 GPUs, simulated.

The simulation is arithmetic over costs that the turn `costs` measures: seconds of an update's computing at two sizes
(a line: so much a token, so much an update), of an all-reduce between two processes at two sizes (latency, bytes a
second), of making batches, how much two busy processes slow each other down, and what Ray takes of their cores. It says
what two workers reach, which stands beside what they did reach. For GPUs the computing and the wires are assumed
(`scale_model.py`), the rest is measured; every row says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import Facts, median_of, middle
from rounds import Benchmark, Case, Row, Settings, run
from scale_model import GPU, HIDDEN, JITTER, NETWORK, WORLDS, Costs, gpus, two_workers

FULL = {"limit": 6000, "tokens": 8192, "warm": 2, "steps": 10, "sizes": [2048, 8192], "repeats": 2}
QUICK = {"limit": 600, "tokens": 1024, "warm": 1, "steps": 4, "sizes": [512, 1024], "repeats": 2}
CASES = {"scale": Case(("one", "two", "costs"), FULL, QUICK)}


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
