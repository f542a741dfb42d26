"""Heliostat's side: a run as a user starts it, timed from outside by the rows that its journal gets."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from measure import Clock


class Mark(NamedTuple):
    """When a row of the journal was seen."""

    row: dict[str, Any]
    wall_s: float
    cpu_s: float
    """Of this process and all its descendants: workers, Ray's own processes, drivers."""


class JournalClock(threading.Thread):
    """Watches `metrics.jsonl` of a run and notes wall and CPU seconds at each of its rows."""

    def __init__(self) -> None:
        super().__init__(daemon=True, name="journal-clock")
        self.marks: list[Mark] = []
        self.folder: Path | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        read = 0
        while not self.ended.wait(0.02):
            path = self.folder / "metrics.jsonl" if self.folder else None
            if path is None or not path.exists() or path.stat().st_size == read:
                continue
            with path.open("rb") as file:
                file.seek(read)
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            read += len(new)
            seen = time.perf_counter(), family_cpu_s()
            self.marks += [Mark(json.loads(line), *seen) for line in new.splitlines()]

    def curve(self) -> list[tuple[float, float, float]]:
        """Wall and CPU seconds of training up to each validation, and its loss."""
        steps = [mark.row["step"] for mark in self.marks if "valid/loss" in mark.row]
        losses = [mark.row["valid/loss"] for mark in self.marks if "valid/loss" in mark.row]
        clocks = [self.between(0, step) for step in steps]
        return [(clock.wall_s, clock.cpu_s, loss) for clock, loss in zip(clocks, losses, strict=True)]

    def between(self, first: int, last: int) -> Clock:
        """What passed from the end of step `first` to that of step `last`, validations in between left out."""
        clock, before = Clock(), None
        for mark in self.marks:
            is_training = "progress" in mark.row
            if first < mark.row["step"] <= last and is_training and before is not None:
                clock.wall_s += mark.wall_s - before.wall_s
                clock.cpu_s += mark.cpu_s - before.cpu_s
            before = mark
        return clock


def family_cpu_s() -> float:
    """CPU seconds of this process and its living descendants."""
    import psutil

    here = psutil.Process()
    total = 0.0
    for each in (here, *here.children(recursive=True)):
        try:
            spent = each.cpu_times()
            total += spent.user + spent.system
        except psutil.NoSuchProcess:
            continue
    return total


def loaded(reference: str, overrides: Sequence[str], **settings: Any) -> Any:
    """A checked run with a row of the journal for each step, and no tracker."""
    from heliostat.run import load

    fixed = ["train.log_every=1", "train.trackers=[]", *(f"{key}={value}" for key, value in settings.items())]
    return load(reference, [*fixed, *overrides])


def train(run: Any, warm: int) -> dict[str, Any]:
    """Train `run` as `heliostat train` does. Wall and CPU seconds after the first `warm` steps, losses, tokens."""
    from heliostat.data.prepared import Prepared
    from heliostat.train.launch import Watcher
    from heliostat.train.launch import train as launch

    clock = JournalClock()

    class Watch(Watcher):
        def training(self, folder: Path) -> None:
            clock.folder = folder

    clock.start()
    try:
        result = launch(run, watcher=Watch())
    finally:
        clock.ended.set()
        clock.join()
    rows = [mark.row for mark in clock.marks]
    spent = clock.between(warm, result.steps)
    timed = tokens_between(plan_of(run, Prepared.open(result.prepared)), warm, result.steps)
    shutil.rmtree(result.folder)
    return {
        "wall_s": spent.wall_s,
        "cpu_s": spent.cpu_s,
        "steps": result.steps,
        "tokens": timed,
        "tokens_per_s": timed / spent.wall_s,
        "losses": [row["loss"] for row in rows if "progress" in row],
        "curve": clock.curve(),
        "valid_loss": next((row["valid/loss"] for row in reversed(rows) if "valid/loss" in row), None),
    }


def plan_of(run: Any, prepared: Any) -> Any:
    """The plan of the global batches of `run`."""
    from heliostat.data.plan import BatchPlan

    lengths = prepared.shards("train").lengths
    return BatchPlan(lengths, tokens_per_batch=run.train.tokens_per_batch, seed=run.train.seed)


def tokens_between(plan: Any, first: int, last: int) -> int:
    """Tokens of the global batches of the steps after `first` up to `last`."""
    total, step, epoch = 0, 0, 0
    while step < last:
        for rows in plan.batches(epoch):
            if first <= step < last:
                total += int(plan.lengths[rows].sum())
            step += 1
        epoch += 1
    return total


def prepared_of(run: Any) -> Any:
    """The prepared data of `run`, made now if need be."""
    from heliostat.ingest import prepare

    return prepare(run)


def fresh_model(run: Any, prepared: Any) -> Any:
    """The model that a training of `run` starts from, weight by weight."""
    import torch

    from heliostat.model import build_model

    parts = prepared.parts(run)
    torch.manual_seed(run.train.seed)
    return build_model(parts.encoder, parts.head)


def in_home(name: str) -> Path:
    """A folder of the benchmarks' home, made if need be."""
    folder = Path(os.environ["HELIOSTAT_HOME"]) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
