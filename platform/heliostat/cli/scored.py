"""What `evaluate` and `compare` have in common: a model, and the rows that it is scored on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from heliostat.cli.story import console

if TYPE_CHECKING:
    from rich.progress import Progress

    from heliostat.data.labelled import Labelled
    from heliostat.data.prepared import Prepared
    from heliostat.predict import Predictor
    from heliostat.run import Run

_READING = ("data", "evaluate")
"""Sections of a run that say how a labelled file is read and what is shown; the others made the model."""


class Origin(NamedTuple):
    """The training that a model came from, as far as it is still here."""

    run_id: str | None
    curves: Path | None


def find_origin(model: str) -> Origin:
    """The run of a stored model, a run id, or a checkpoint inside a run's folder. Raises StoreError if unknown."""
    from heliostat.home import home
    from heliostat.models.store import ModelStore

    if "/" in model or model.startswith((".", "~")):
        path = Path(model).expanduser().absolute()
        folder = next((each for each in (path, path.parent, path.parent.parent) if _is_run(each)), path)
        run_id = folder.name if _is_run(folder) else None
    elif _is_run(home() / "runs" / model):
        run_id, folder = model, home() / "runs" / model
    else:
        run_id = ModelStore().resolve(model).metadata.get("run_id")
        folder = home() / "runs" / str(run_id)
    curves = folder / "metrics.jsonl"
    return Origin(run_id, curves if curves.is_file() else None)


def _is_run(folder: Path) -> bool:
    return (folder / "metrics.jsonl").is_file()


class Scored(NamedTuple):
    """What a model is scored on, and the run that says how it is read and what is shown."""

    rows: Prepared | Labelled
    run: Run


def rows_for(predictor: Predictor, data: str | None, overrides: Sequence[str]) -> Scored:
    """The prepared data of a model, or the examples of a labelled file beside them, as far as they are still here."""
    from heliostat.data.labelled import read_labelled
    from heliostat.errors import DataError
    from heliostat.ingest import prepare

    run = reading(predictor.run, overrides)
    if data is None:
        return Scored(prepare(predictor.run), run)
    try:
        prepared = prepare(predictor.run)
    except DataError as error:
        console.print(f"The model's own data are not here, so nothing is set beside it: {error}", soft_wrap=True)
        prepared = None
    found = read_labelled(run, data, predictor.encoder, predictor.head, prepared)
    if found.tally.reasons:
        console.print(f"{found.tally} left out: {', '.join(found.tally.reasons)}", soft_wrap=True)
    return Scored(found, run)


def with_slices_there(scored: Scored, data: str | None, overrides: Sequence[str]) -> Run:
    """The run without slices that the labelled file has no column for, unless they were asked for now."""
    from heliostat.evaluate.table import carried
    from heliostat.run import nested

    run, given = scored.run, nested(overrides).get("evaluate")
    if data is None or (isinstance(given, dict) and "slices" in given):
        return run
    rows = list(scored.rows.examples("test"))
    kept = tuple(name for name in run.evaluate.slices if carried(name, rows))
    if gone := [name for name in run.evaluate.slices if name not in kept]:
        console.print(f"{data} has no column {', '.join(gone)}: no slices by it.", soft_wrap=True, highlight=False)
    return run.model_copy(update={"evaluate": run.evaluate.model_copy(update={"slices": kept})})


def reading(run: Run, overrides: Sequence[str]) -> Run:
    """The run with other columns or slices. Raises RunError for a setting that made the model."""
    from heliostat.errors import Problem, RunError
    from heliostat.run import check, nested

    if not overrides:
        return run
    given = nested(overrides)
    odd = [key for key in given if key not in _READING]
    if odd:
        raise RunError(
            [Problem(key, "made the model and cannot be changed; data.adapter.* and evaluate.* can.") for key in odd]
        )
    return check(_laid_over(run.dump(), given))


def _laid_over(values: dict[str, object], given: dict[str, object]) -> dict[str, object]:
    merged = dict(values)
    for key, value in given.items():
        below = merged.get(key)
        merged[key] = _laid_over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


class Bar:
    """One bar that says which model answers, and how far it is."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task = progress.add_task("reading the data", total=None)

    def __call__(self, name: str, done: int, total: int) -> None:
        """Move the bar."""
        words = "predicting" if name == "model" else name
        self.progress.update(self.task, description=words, completed=done, total=total)


def check_options(data: str | None, split: str, overrides: Sequence[str] | None, *, idle: tuple[str, ...] = ()) -> None:
    """Raises HeliostatError for options of `evaluate` and `compare` that have no effect beside each other.

    `idle`: settings of the section `evaluate` that have none on the command.
    """
    from heliostat.errors import HeliostatError, Problem, RunError
    from heliostat.run import nested

    if data and split != "test":
        raise HeliostatError(
            "--split chooses among the run's own examples and has no effect beside --data: leave it out."
        )
    settings = nested(overrides or ())
    if odd := [key for key in settings if key == "data" and not data]:
        raise HeliostatError(f"{odd[0]}: such settings say how a file is read. Name one with --data FILE.")
    given = settings.get("evaluate")
    if odd := [name for name in idle if isinstance(given, dict) and name in given]:
        raise RunError([Problem(f"evaluate.{name}", "has no effect on this command: leave it out.") for name in odd])
