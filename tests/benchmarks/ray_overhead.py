"""What Ray costs a training in steady state: the same loop on two workers of Ray Train, and under torchrun.

Both sides run `heliostat train` on the same run, so every step is the same batch. Time begins after the first steps and
ends before the validation. `workers` counts the two processes that train; `all` also the drivers and, under Ray, every
process that it keeps running beside them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from measure import Facts, median_of, middle
from rounds import Benchmark, Case, Row, Settings, run

FULL = {"limit": 6000, "tokens": 4096, "warm": 5, "steps": 60}
CASES = {"overhead": Case(("ray", "torchrun"), FULL, {"limit": 400, "tokens": 1024, "warm": 2, "steps": 8}, rounds=7)}


def run_of(settings: Settings) -> Any:
    """The run of both sides."""
    from ours import loaded

    return loaded(
        "sentiment/pretrained",
        [f"train.max_steps={settings['steps']}", "train.ema=null", "data.split={by: hash, valid: 0.02, test: 0.02}"],
        **{"data.limit": settings["limit"], "train.tokens_per_batch": settings["tokens"]},
        **{"train.tokens_per_micro_batch": settings["tokens"], "train.evaluations_per_epoch": 1},
        **{"scaling.num_workers": 2},
    )


def turn(case: str, side: str, settings: Settings) -> dict[str, Any]:
    import ours

    our_run = run_of(settings)
    return ours.train(our_run, settings["warm"]) if side == "ray" else under_torchrun(our_run, settings["warm"])


def under_torchrun(our_run: Any, warm: int) -> dict[str, Any]:
    """The run as torchrun's processes train it."""
    import ours

    name = f"torchrun-{os.getpid()}"
    folder = ours.in_home("runs") / name
    file = ours.in_home("files") / f"{name}.yaml"
    file.write_text(json.dumps(our_run.dump()), encoding="utf-8")
    clock = ours.JournalClock(ours.marked_steps(our_run, warm))
    clock.folder = folder
    clock.start()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "heliostat"]
    try:
        subprocess.run([*command, "train", str(file), "--run-id", name, "--no-evaluate"], check=True)
    finally:
        clock.ended.set()
        clock.join()
    facts = ours.facts_of(our_run, clock, warm, our_run.train.max_steps, ours.prepared_of(our_run))
    shutil.rmtree(folder)
    file.unlink()
    return facts


def rows(case: str, rounds: Sequence[Facts], settings: Settings) -> list[Row]:
    def over(key: str) -> str:
        found = median_of([each["ray"][key] / each["torchrun"][key] for each in rounds])
        return f"{found.value - 1:+.1%} ({found.low - 1:+.1%}, {found.high - 1:+.1%})"

    steps = settings["steps"] - settings["warm"]
    counted = {"workers_cpu_s": "the workers", "cpu_s": "all processes"}
    return [
        Row(
            what=f"CPU time of a step under Ray Train, {words}",
            beside="the same loop under torchrun",
            ours=f"{middle(rounds, 'ray', key) / steps:.3f} CPU-s",
            theirs=f"{middle(rounds, 'torchrun', key) / steps:.3f} CPU-s",
            faster=f"wall {over('wall_s')}",
            cpu=over(key),
            equal="same batches, seeds and threads",
            goal="upper end ≤ +1 % (+2.5 %)",
        )
        for key, words in counted.items()
    ]


if __name__ == "__main__":
    run(Benchmark("ray_overhead", __file__, CASES, turn, rows))
