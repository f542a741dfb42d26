"""What a person sees while a model is trained, evaluated and stored: bars while it works, a table at the end."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from heliostat.train.launch import Watcher

if TYPE_CHECKING:
    from heliostat.evaluate import Interval, Report
    from heliostat.models import ModelVersion
    from heliostat.train.launch import TrainResult

console = Console()


class Told(NamedTuple):
    """What a told training ended with."""

    result: TrainResult
    report: Report | None
    version: ModelVersion | None


class TrainingBar(Watcher):
    """One bar for a training: it follows the run's journal, so it works the same for workers in other processes."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task = progress.add_task("reading the data", total=None)
        self.is_training = False

    def preparing(self, stage: str, done: int, total: int | None) -> None:
        """Show how far the preparation is."""
        self.progress.update(self.task, description=f"preparing: {stage}", total=total, completed=done)

    def training(self, folder: Path) -> None:
        """Look at the journal and move the bar."""
        if not self.is_training:
            self.is_training = True
            self.progress.reset(self.task, description="starting the workers", total=None)
        row = _last_row(folder / "metrics.jsonl")
        if row:
            words = f"training  step {row['step']}  loss {row.get('loss', float('nan')):.3f}"
            self.progress.update(self.task, description=words, total=1.0, completed=row["progress"])

    def warn(self, sentence: str) -> None:
        """Print it above the bar."""
        self.progress.console.print("[yellow]warning[/]", Text(sentence), soft_wrap=True, highlight=False)


class TrainingLines(Watcher):
    """A training told line by line, for a log that nobody sees grow on a screen: a job's, a scheduler's."""

    EVERY_S = 5.0
    """Seconds between two lines of one stage, at least."""

    def __init__(self) -> None:
        self.stage = ""
        self.said_at = 0.0

    def preparing(self, stage: str, done: int, total: int | None) -> None:
        """Say how far the preparation is."""
        self._say(f"preparing: {stage}", f" {done:,}" + (f" of {total:,}" if total else ""), first=False)

    def training(self, folder: Path) -> None:
        """Look at the journal and say how far the training is."""
        row = _last_row(folder / "metrics.jsonl")
        if row is None:
            self._say("starting the workers")
            return
        loss = row.get("loss", float("nan"))
        self._say("training", f"  {row['progress']:4.0%}  step {row['step']}  loss {loss:.3f}")

    def warn(self, sentence: str) -> None:
        """Print it."""
        console.print(f"warning   {sentence}", soft_wrap=True, highlight=False, markup=False)

    def _say(self, stage: str, more: str = "", *, first: bool = True) -> None:
        """Print a stage when it begins, if it is worth it, and then now and again how far it is."""
        now = time.monotonic()
        is_new, self.stage = stage != self.stage, stage
        if is_new and not first:
            self.said_at = now
        if (is_new and first) or (more and now - self.said_at >= self.EVERY_S):
            self.said_at = now
            console.print(f"{stage}{more}", highlight=False, markup=False)


def watcher_on(progress: Progress) -> Watcher:
    """A bar on a screen, lines elsewhere."""
    return TrainingBar(progress) if console.is_terminal else TrainingLines()


def _last_row(path: Path) -> dict[str, Any] | None:
    """The newest row of training in a journal."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().decode("utf-8", "replace").splitlines()
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "progress" in row:
            return row
    return None


def bars() -> Progress:
    """Progress bars that vanish when they are done."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def tell_training(
    reference: str | None,
    overrides: Sequence[str],
    *,
    resume: str | None = None,
    run_id: str | None = None,
    alias: str = "champion",
    evaluate: bool = True,
) -> Told:
    """Train, evaluate and store, with bars and a table of scores."""
    from heliostat.models.version import check_name
    from heliostat.run import load
    from heliostat.train.launch import train
    from heliostat.train.torchrun import is_follower

    if evaluate:
        check_name(alias, "alias")  # now, not when the training is over
    console.quiet = is_follower()
    run = load(reference, overrides) if reference else None
    scaling = _scaling(overrides) if resume else None
    with bars() as progress:
        result = train(run, resume=resume, run_id=run_id, scaling=scaling, watcher=watcher_on(progress))
    console.print(f"trained   {result.run_id}  {result.steps} steps in {result.seconds:.0f} s")
    console.print(f"          {_in_effect(result)}")
    if is_follower():
        return Told(result, None, None)
    if not evaluate:
        console.print(f"checkpoint  {result.checkpoint}")
        return Told(result, None, None)
    report = report_on_test(result)
    version = _store(result, report, alias)
    if report:
        show_scores(report)
        console.print(f"report    {report.html}", soft_wrap=True)
    else:
        scores = "  ".join(f"{name} {score}" for name, score in version.scores.items())
        console.print(f"valid     {scores}", highlight=False, soft_wrap=True)
    console.print(f"stored    {version.name}:{version.version}, now {version.name}@{alias}")
    return Told(result, report, version)


def _scaling(overrides: Sequence[str]) -> dict[str, Any]:
    """What overrides say of the workers. Raises RunError for others: a run that goes on keeps its settings."""
    from heliostat.errors import Problem, RunError
    from heliostat.run import nested

    values = nested(overrides)
    odd = [key for key in values if key != "scaling"]
    if odd:
        rule = "cannot be changed in a run that goes on; scaling.num_workers and its neighbours can."
        raise RunError([Problem(key, rule) for key in odd])
    return dict(values.get("scaling", {}))


def _in_effect(result: TrainResult) -> str:
    """What was in effect, not what was asked for: parameters that trained, workers, number format."""
    from heliostat.checkpoint import read_manifest

    told = read_manifest(result.checkpoint)["trainer"]["in_effect"]
    trained, total = told.get("trained_parameters", 0), told.get("parameters", 0)
    share = f"{trained:,} of {total:,} parameters ({trained / max(1, total):.2%}) trained"
    compiled = ", compiled layers" if told.get("compiled_layers") else ""
    return f"{share}, {told['strategy']} on {told['world_size']} x {told['device']}, {told['precision']}{compiled}"


def report_on_test(result: TrainResult) -> Report | None:
    """The report on the test split; None where the run has none or its head no metrics, as in pretraining."""
    from heliostat.cli.scored import Bar
    from heliostat.data.prepared import Prepared
    from heliostat.evaluate import evaluate
    from heliostat.predict import Predictor

    with bars() as progress:
        predictor, prepared = Predictor.load(result.checkpoint), Prepared.open(result.prepared)
        if not prepared.counts["test"] or not predictor.head.metrics():
            return None
        curves = result.folder / "metrics.jsonl"
        return evaluate(
            predictor,
            prepared,
            result.folder / "report",
            curves=curves,
            run_id=result.run_id,
            on_progress=Bar(progress),
        )


def valid_scores(result: TrainResult) -> dict[str, float]:
    """The scores of the best checkpoint on the valid split, as the journal has them: `valid/loss` and more."""
    step = int(result.checkpoint.name.rpartition("-")[2])
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = [row for row in rows if row["step"] == step]
    return {name: value for row in found for name, value in row.items() if name.startswith("valid/")}


def _store(result: TrainResult, report: Report | None, alias: str) -> ModelVersion:
    from heliostat.models.store import ModelStore
    from heliostat.run import check

    run = check(json.loads((result.checkpoint / "run.json").read_text(encoding="utf-8")))
    store = ModelStore()
    version = store.add(
        run.name,
        result.checkpoint,
        run_id=result.run_id,
        data_key=result.prepared.name,
        scores=report.scores if report else valid_scores(result),
        baselines=report.baselines if report else None,
        report=report.folder if report else None,
    )
    store.promote(run.name, version.version, alias)
    return version


def show_scores(report: Report) -> None:
    """The scores with their intervals, beside the first baseline's on the same rows, and the paired difference."""
    from heliostat.evaluate.page import number, signed

    baseline = next(iter(report.baselines), None)
    table = Table(title=f"{report.split} scores, 95 % intervals", title_justify="left", box=None, pad_edge=False)
    table.add_column("metric", no_wrap=True)
    for heading in ("model", baseline, "difference") if baseline else ("model",):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.summary_rows(baseline):
        cells = [_shown(row.model, number)]
        if row.baseline and row.difference:
            cells += [number(row.baseline.value), _shown(row.difference, signed)]
        table.add_row(row.metric, *cells)
    console.print(table)
    for name, signature in report.signatures.items():
        console.print(f"{name}: {signature}", highlight=False, soft_wrap=True)


def _shown(interval: Interval, spell: Callable[[float], str]) -> str:
    if math.isnan(interval.value):
        return "undefined"
    return f"{spell(interval.value)} ({spell(interval.low)}, {spell(interval.high)})"
