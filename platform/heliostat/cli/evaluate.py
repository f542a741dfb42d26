"""`heliostat evaluate`: a stored model or a checkpoint in, a report out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

if TYPE_CHECKING:
    from rich.progress import Progress


def command(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="name@alias, name:3, name (newest) or a checkpoint's folder."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the report; by default ./report-NAME-SPLIT.")
    ] = None,
    split: Annotated[Literal["train", "valid", "test"], typer.Option(help="The examples to score on.")] = "test",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")] = None,
) -> None:
    """Score a model beside its baselines, with intervals: report.html, report.json and predictions.parquet."""
    from heliostat.cli.story import bars, console, show_scores
    from heliostat.evaluate import evaluate
    from heliostat.ingest import prepare
    from heliostat.predict import load

    origin = find_origin(model)
    predictor = load(model, threads=threads)
    folder = out or Path(f"report-{predictor.run.name}-{split}")
    with bars() as progress:
        bar = Bar(progress)
        prepared = prepare(predictor.run)
        report = evaluate(
            predictor, prepared, folder, split=split, curves=origin.curves, run_id=origin.run_id, on_progress=bar
        )
    show_scores(report)
    console.print(f"report    {report.html}", soft_wrap=True)


class Origin(NamedTuple):
    """The training that a model came from, as far as it is still here."""

    run_id: str | None
    curves: Path | None


def find_origin(model: str) -> Origin:
    """The run of a stored model or of a checkpoint inside a run's folder. Raises StoreError for an unknown model."""
    from heliostat.home import home
    from heliostat.models.store import ModelStore

    if "/" in model or model.startswith((".", "~")):
        folder = Path(model).expanduser().absolute().parent.parent
        run_id = folder.name if (folder / "metrics.jsonl").is_file() else None
    else:
        run_id = ModelStore().resolve(model).metadata.get("run_id")
        folder = home() / "runs" / str(run_id)
    curves = folder / "metrics.jsonl"
    return Origin(run_id, curves if curves.is_file() else None)


class Bar:
    """One bar that says which model answers, and how far it is."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task = progress.add_task("reading the data", total=None)

    def __call__(self, name: str, done: int, total: int) -> None:
        """Move the bar."""
        words = "predicting" if name == "model" else f"baseline {name}"
        self.progress.update(self.task, description=words, completed=done, total=total)
