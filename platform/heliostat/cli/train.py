"""`heliostat train`: a run file in, an evaluated model in the store out."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    run: Annotated[str | None, typer.Argument(help="A run file, or plugin/name as in sentiment/default.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value laid over the file, as train.lr=3e-4.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="Go on with the run of this id, or at this address: s3://bucket/prefix/ID.")
    ] = None,
    run_id: Annotated[str | None, typer.Option(help="An id of your own for the new run.")] = None,
    alias: Annotated[str, typer.Option(help="The alias that the new version gets.")] = "champion",
    evaluate: Annotated[
        bool, typer.Option(help="Score on the test split, write the report and store the model.")
    ] = True,
) -> None:
    """Train a run, evaluate it, and store the model as NAME@champion."""
    from heliostat.cli.story import tell_training

    if resume and run and "=" in run:
        overrides, run = [run, *(overrides or [])], None
    tell_training(run, overrides or [], resume=resume, run_id=run_id, alias=alias, evaluate=evaluate)
