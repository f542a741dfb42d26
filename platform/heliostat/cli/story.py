"""What a person sees while a model is trained, evaluated and stored: bars while it works, a table at the end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from heliostat.evaluate import Report
    from heliostat.models.store import ModelVersion
    from heliostat.train.launch import TrainResult

console = Console()


class Told(NamedTuple):
    """What a told training ended with."""

    result: TrainResult
    report: Report | None
    version: ModelVersion | None


class TrainingBar:
    """One bar for a training: it follows the run's journal, so it works the same for workers in other processes."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task = progress.add_task("reading the data", total=None)
        self.stage = "prepare"

    def __call__(self, stage: str, folder: Path) -> None:
        """Look at the journal and move the bar."""
        if stage != self.stage:
            self.stage = stage
            self.progress.update(self.task, description="starting the workers", total=None)
        row = _last_row(folder / "metrics.jsonl")
        if row:
            words = f"training  step {row['step']}  loss {row.get('loss', float('nan')):.3f}"
            self.progress.update(self.task, description=words, total=1.0, completed=row["progress"])


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
    return Progress(*columns, console=console, transient=True)


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
    from heliostat.run import load
    from heliostat.train.launch import train

    run = load(reference, overrides) if reference else None
    with bars() as progress:
        result = train(run, resume=resume, run_id=run_id, on_progress=TrainingBar(progress))
    console.print(f"trained   {result.run_id}  {result.steps} steps in {result.seconds:.0f} s")
    if not evaluate:
        console.print(f"checkpoint  {result.checkpoint}")
        return Told(result, None, None)
    report = _evaluate(result)
    version = _store(result, report, alias)
    show_scores(report)
    console.print(f"stored    {version.name}:{version.version}, now {version.name}@{alias}")
    console.print(f"report    {report.html}", soft_wrap=True)
    return Told(result, report, version)


def _evaluate(result: TrainResult) -> Report:
    from heliostat.data.prepared import Prepared
    from heliostat.evaluate import evaluate
    from heliostat.predict import Predictor

    with bars() as progress:
        progress.add_task("evaluating on the test split, beside the baselines", total=None)
        predictor = Predictor.load(result.checkpoint)
        prepared = Prepared.open(result.prepared)
        return evaluate(predictor, prepared, result.folder / "report", curves=result.folder / "metrics.jsonl")


def _store(result: TrainResult, report: Report, alias: str) -> ModelVersion:
    from heliostat.models.store import ModelStore
    from heliostat.run import check

    run = check(json.loads((result.checkpoint / "run.json").read_text(encoding="utf-8")))
    store = ModelStore()
    scores = {name: interval._asdict() for name, interval in report.scores.items()}
    version = store.add(
        run.name,
        result.checkpoint,
        run_id=result.run_id,
        data_key=result.prepared.name,
        scores=scores,
        report=report.html.parent,
    )
    store.promote(run.name, version.version, alias)
    return version


def show_scores(report: Report) -> None:
    """The scores on the test split with their 95 % intervals, the baselines' beside them."""
    table = Table(title="test scores (95 % interval)", title_justify="left")
    table.add_column("metric")
    table.add_column("model", justify="right")
    for name in report.baselines:
        table.add_column(name, justify="right")
    for metric, interval in report.scores.items():
        others = [scores.get(metric) for scores in report.baselines.values()]
        table.add_row(metric, _shown(interval), *[_shown(other) if other else "" for other in others])
    console.print(table)


def _shown(interval: Any) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f}-{interval.high:.3f})"
