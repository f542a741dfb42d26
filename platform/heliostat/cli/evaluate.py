"""`heliostat evaluate`: a stored model, a run or a checkpoint in, a report out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="name@alias, name:3, name (newest), a run id or a checkpoint's folder."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="With --data: its columns, as data.adapter.text=review."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the report; by default ./report-NAME-SPLIT.")
    ] = None,
    split: Annotated[Literal["train", "valid", "test"], typer.Option(help="The examples to score on.")] = "test",
    data: Annotated[
        str | None, typer.Option("--data", help="A labelled file to score on instead: all that data.source takes.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")] = None,
) -> None:
    """Score a model beside its baselines, with intervals: report.html, report.json and predictions.parquet."""
    from heliostat.cli.scored import Bar, check_options, find_origin, rows_for, with_slices_there
    from heliostat.cli.story import bars, console, show_scores
    from heliostat.evaluate import evaluate
    from heliostat.predict import load

    check_options(data, split, overrides)
    origin = find_origin(model)
    predictor = load(model, threads=threads)
    with bars() as progress:
        bar = Bar(progress)
        scored = rows_for(predictor, data, overrides or [])
        rows, run = scored.rows, with_slices_there(scored, data, overrides or [])
        name = split if data is None else str(getattr(rows, "name", split))
        report = evaluate(
            predictor,
            rows,
            out or Path(f"report-{predictor.run.name}-{name}"),
            split=split,
            run=run,
            curves=origin.curves,
            run_id=origin.run_id,
            on_progress=bar,
            rows_name=name,
        )
    show_scores(report)
    console.print(f"report    {report.html}", soft_wrap=True)
