"""Memory and time as `heliostat plan --probe` predicts them, beside those of the whole training, for five run files.

Both sides are what a user runs: the plan makes a probe of 20 updates in processes of its own; the run trains to its
end. Seconds are those of the training, from built model to last checkpoint: preparation, Ray's start and the report are
in neither. Memory is the most that was resident in a worker's process, less what was resident once its libraries were
imported; of several workers that of the largest. Some runs read fewer records (`data.limit`), and the settings of the
case say so; no run is cut short.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import Facts, median_of, middle
from rounds import Benchmark, Case, Row, Settings, run

QUICK: dict[str, Any] = {"overrides": ["data.limit=2000", "train.epochs=1"], "probe": 3}
FILES: dict[str, list[str]] = {
    "sentiment/quickstart": ["data.limit=2000"],
    "sentiment/pretrained": ["data.limit=2000"],
    "translation/quickstart": ["data.limit=6000"],
    "recommendation/quickstart": [],
    "finance/quickstart": [],
}
CASES = {
    file.replace("/quickstart", "").replace("sentiment/", ""): Case(
        ("plan", "run"), {"file": file, "overrides": overrides, "probe": 20}, QUICK, rounds=2
    )
    for file, overrides in FILES.items()
}


def turn(case: str, side: str, settings: Settings) -> dict[str, Any]:
    from heliostat.ingest import prepare
    from heliostat.run import load

    run_file = load(settings["file"], settings["overrides"])
    prepared = prepare(run_file)
    return planned(run_file, prepared, settings["probe"]) if side == "plan" else trained(run_file)


def planned(run_file: Any, prepared: Any, steps: int) -> dict[str, Any]:
    """What the plan says."""
    from heliostat.cluster.probe import WARM, probe
    from heliostat.cluster.work import work_of

    began, work = time.perf_counter(), work_of(run_file, prepared)
    found = probe(run_file, prepared, steps=steps)
    spent = time.perf_counter() - began
    said = {"seconds": found.seconds(work.steps, work.validations), "memory_mb": found.most_bytes(work.steps) / 1e6}
    parts = {"build_s": found.build_s, "step_s": found.steady_s, "warm_s": sum(found.step_s[:WARM])}
    parts |= {"validate_s": sum(found.validate_s), "save_s": sum(found.save_s), "settle_s": found.settle_s}
    return {**said, **parts, "wall_s": spent, "cpu_s": spent, "steps": work.steps, "workers": found.num_workers}


def trained(run_file: Any) -> dict[str, Any]:
    """What the training took."""
    from heliostat.cluster.probe_process import import_all, peak, reset_peak
    from heliostat.train.launch import train

    import_all()
    baseline = reset_peak()
    watch = Watch()
    watch.start()
    began = time.perf_counter()
    try:
        result = train(run_file)
    finally:
        watch.ended.set()
        watch.join()
    outcome = json.loads((result.folder / "outcome.json").read_text(encoding="utf-8"))
    most = watch.most() or peak() - baseline
    shutil.rmtree(result.folder)
    spent = time.perf_counter() - began
    return {"seconds": outcome["seconds"], "memory_mb": most / 1e6, "wall_s": spent, "cpu_s": spent, **watch.told()}


class Watch(threading.Thread):
    """Notes the memory of Ray's workers, which are forks with everything imported: the first and the most of each."""

    def __init__(self) -> None:
        super().__init__(daemon=True, name="watch")
        self.ended = threading.Event()
        self.first: dict[int, int] = {}
        self.highest: dict[int, int] = {}

    def run(self) -> None:
        import psutil

        here = psutil.Process(os.getpid())
        while not self.ended.wait(0.05):
            for each in here.children(recursive=True):
                try:
                    if not any("RayTrainWorker" in word for word in each.cmdline()):
                        continue
                    status = Path(f"/proc/{each.pid}/status").read_text(encoding="ascii")
                except (psutil.NoSuchProcess, OSError):
                    continue
                marks = dict(line.split(":", 1) for line in status.splitlines())
                if "VmHWM" in marks:
                    self.first.setdefault(each.pid, 1024 * int(marks["VmRSS"].split()[0]))
                    self.highest[each.pid] = 1024 * int(marks["VmHWM"].split()[0])

    def most(self) -> int:
        """The most that a worker took beyond what it began with; 0 where there was none."""
        return max((self.highest[pid] - self.first[pid] for pid in self.first), default=0)

    def told(self) -> dict[str, Any]:
        """What it began with, and how many workers there were."""
        return {"workers": len(self.first) or 1, "first_mb": max(self.first.values(), default=0) / 1e6}


def rows(case: str, rounds: Sequence[Facts], settings: Settings) -> list[Row]:
    words = " ".join([settings["file"], *settings["overrides"]])
    workers = int(rounds[0]["run"]["workers"])
    measures = {"memory_mb": ("memory of a worker", "MB"), "seconds": ("time", "s")}
    return [
        Row(
            what=f"{what} of `{words}`, {workers} worker{'s' if workers > 1 else ''}: predicted",
            beside="measured",
            ours=f"{middle(rounds, 'plan', key):,.0f} {unit}",
            theirs=f"{middle(rounds, 'run', key):,.0f} {unit}",
            faster=_off(rounds, key),
            cpu="",
            equal=f"{int(rounds[0]['plan']['steps'])} updates, of which the probe made {settings['probe']}",
            goal="within 15 % (25 %)",
        )
        for key, (what, unit) in measures.items()
    ]


def _off(rounds: Sequence[Facts], key: str) -> str:
    found = median_of([each["plan"][key] / each["run"][key] for each in rounds])
    return f"{found.value - 1:+.1%} ({found.low - 1:+.1%}, {found.high - 1:+.1%})"


if __name__ == "__main__":
    run(Benchmark("plan", __file__, CASES, turn, rows))
