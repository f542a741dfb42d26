"""`heliostat tune`: a run and a search space in, the best run and its model out."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    run: Annotated[str | None, typer.Argument(help="A run file, or plugin/name as in sentiment/default.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="What is searched, as 'train.lr=log(1e-5,1e-2)' or 'encoder.preset=choice(mini,small)'; and key=value "
            "laid over the file, as tune.search=random. Without any: what the file's section `tune` or the head says."
        ),
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Trials, at most; 32 where nobody says so.")] = None,
    resume: Annotated[str | None, typer.Option(help="Go on with the sweep of this id.")] = None,
    sweep_id: Annotated[str | None, typer.Option(help="An id of your own for the new sweep.")] = None,
    test: Annotated[
        bool,
        typer.Option(help="Answer the test split with the best model and with that of the run as it stood."),
    ] = True,
    store: Annotated[bool, typer.Option(help="Store the best model, with its sweep in its lineage.")] = True,
) -> None:
    """Search settings of a run: log, uniform, int, qint, choice, over any of its keys."""
    from heliostat.cli.sweep import tell_sweep
    from heliostat.errors import TrainError

    if resume and run and "=" in run:
        settings, run = [run, *(settings or [])], None
    if run and "=" in run:
        raise TrainError(f"'{run}' is a setting. Name the run before it: heliostat tune sentiment/default '{run}'.")
    tell_sweep(run, settings or [], trials=trials, resume=resume, sweep_id=sweep_id, store=store, test=test)
