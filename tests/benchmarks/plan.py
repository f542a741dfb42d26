"""Memory and time as `heliostat plan --probe` predicts them, beside those of the whole training, for five run files.

Both sides are what a user runs: the plan makes a probe of 20 updates in processes of its own; the run trains to its
end. Seconds and memory are those of the training, from building the model to the last checkpoint: preparation, Ray's
start, calibration and the report are in neither. Memory is the most that was resident in a worker's process, whole,
and less what was resident once its libraries were imported; of several workers that of the largest. Some runs read
fewer records (`data.limit`), and the settings of the case say so; no run is cut short.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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
    if side == "plan":
        return planned(run_file, prepare(run_file), settings["probe"])
    return trained(run_file)  # on what the plan prepared: to prepare takes memory of its own


def planned(run_file: Any, prepared: Any, steps: int) -> dict[str, Any]:
    """What the plan says."""
    from heliostat.cluster.probe import WARM, probe
    from heliostat.cluster.work import work_of

    began, work = time.perf_counter(), work_of(run_file, prepared)
    found = probe(run_file, prepared, steps=steps)
    spent = time.perf_counter() - began
    beyond = found.most_bytes(work.steps)
    said = {"seconds": found.seconds(work.steps, work.validations)}
    said |= {"memory_mb": (found.baseline_bytes + beyond) / 1e6, "beyond_mb": beyond / 1e6}
    parts = {"build_s": found.build_s, "step_s": found.steady_s, "warm_s": sum(found.step_s[:WARM])}
    parts |= {"validate_s": sum(found.validate_s), "save_s": sum(found.save_s), "settle_s": found.settle_s}
    return {**said, **parts, "wall_s": spent, "cpu_s": spent, "steps": work.steps, "workers": found.num_workers}


def trained(run_file: Any) -> dict[str, Any]:
    """What the training took."""
    from heliostat.cluster.probe_process import import_all, reset_peak
    from heliostat.train.launch import train

    import_all()
    watch = Watch(reset_peak())
    began = time.perf_counter()
    with watch.watching() as watcher:
        result = train(run_file, watcher=watcher)
    outcome = json.loads((result.folder / "outcome.json").read_text(encoding="utf-8"))
    shutil.rmtree(result.folder)
    spent = time.perf_counter() - began
    return {"seconds": outcome["seconds"], "wall_s": spent, "cpu_s": spent, **watch.told()}


class Watch:
    """Notes the memory of this process while it trains, and that of Ray's workers: the first and the most.

    Ray's workers are forks that have everything imported when they are first seen.
    """

    def __init__(self, baseline: int) -> None:
        self.baseline, self.own = baseline, 0
        self.folder: Path | None = None
        self.first: dict[int, int] = {}
        self.highest: dict[int, int] = {}
        self._ended = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[Any]:
        """What `train` is given as its watcher."""
        from heliostat.train.launch import Watcher

        watch = self

        class Told(Watcher):
            def training(self, folder: Path) -> None:
                watch.folder = folder

        thread = threading.Thread(target=self._look, daemon=True, name="watch")
        thread.start()
        try:
            yield Told()
        finally:
            self._ended.set()
            thread.join()

    def _look(self) -> None:
        import psutil

        from heliostat.cluster.probe_process import peak

        here = psutil.Process(os.getpid())
        while not self._ended.wait(0.25):  # seldom: to look at every process takes time from the training
            if self.folder is None or not (self.folder / "outcome.json").exists():
                self.own = peak()  # what comes behind the training does not count
            for each in here.children(recursive=True) if "ray" in sys.modules else ():
                with suppress(psutil.NoSuchProcess, OSError, KeyError):
                    if any("RayTrainWorker" in word for word in each.cmdline()):
                        self._note(each.pid)

    def _note(self, pid: int) -> None:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        marks = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
        self.first.setdefault(pid, 1024 * int(marks["VmRSS"][0]))
        self.highest[pid] = 1024 * int(marks["VmHWM"][0])

    def told(self) -> dict[str, Any]:
        """The most that a worker held, the most beyond what it began with, and how many workers there were."""
        most = max(self.highest.values(), default=self.own)
        beyond = max((self.highest[pid] - self.first[pid] for pid in self.highest), default=self.own - self.baseline)
        return {"memory_mb": most / 1e6, "beyond_mb": beyond / 1e6, "workers": len(self.highest) or 1}


def rows(case: str, rounds: Sequence[Facts], settings: Settings) -> list[Row]:
    words = " ".join([settings["file"], *settings["overrides"]])
    workers = int(rounds[0]["run"]["workers"])
    measures = {"memory_mb": ("memory of a worker", "MB"), "beyond_mb": ("that beyond Python and its libraries", "MB")}
    measures |= {"seconds": ("time", "s")}
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
    run(Benchmark("plan", __file__, CASES, turn, rows, rooms=("cluster",)))
