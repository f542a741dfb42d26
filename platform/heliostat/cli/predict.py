"""`heliostat predict`: answers to texts, to one record, or to every record of a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from heliostat.component import Row
    from heliostat.plugin import Record
    from heliostat.predict import Predictor
    from heliostat.predict.tables import FileResult


def command(
    reference: Annotated[
        str,
        typer.Argument(metavar="REF", help="name@alias, name:3, name (newest) or a checkpoint's folder."),
    ],
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to answer, for a model that reads one text.")] = None,
    record: Annotated[
        list[str] | None, typer.Option("--json", help='A record as JSON: \'{"text": "..."}\'. May stand several times.')
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", help="csv, tsv, jsonl, parquet or arrow; its columns are taken by name.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the answers to --file go: .csv, .jsonl or .parquet.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")] = None,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="Number format of the matrix products.")] = "fp32",
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Answer --file on Ray, an actor a core; a job that died goes on.")
    ] = False,
) -> None:
    """Answer texts, records or a file with a stored model. Prints a table, or JSON lines into a pipe."""
    from heliostat.errors import HeliostatError
    from heliostat.predict import load
    from heliostat.predict.predictor import locate

    given = [name for name, value in (("texts", texts), ("--json", record), ("--file", file)) if value]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise HeliostatError(f"predict takes texts, --json or --file; found {found}. Give one of them.")
    if bool(file) != (out is not None):
        raise HeliostatError("--file and --out go together: where answers come from, and where they go.")
    if cluster and (not file or threads):
        raise HeliostatError("--cluster answers a --file, with one thread on each core: it takes no --threads.")
    if cluster and file and out:
        _answer_on_ray(locate(reference), file, out, precision)
        return
    rows = [_parse(each) for each in record or ()]
    predictor = load(reference, threads=threads, precision=precision)
    if file and out:
        _answer_file(predictor, file, out)
        return
    rows = rows or [{text_field(predictor.head.takes): text} for text in texts or ()]
    _show(rows, predictor.predict(rows), predictor)


def _parse(text: str) -> Row:
    from heliostat.errors import HeliostatError

    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise HeliostatError('--json takes one JSON object, as in --json \'{"text": "Fits beautifully."}\'.')
    return value


def text_field(record: type[Record]) -> str:
    """The field that a bare text goes to. Raises HeliostatError when a record needs more than one text."""
    from heliostat.errors import HeliostatError

    fields = record.model_fields
    required = [name for name, field in fields.items() if field.is_required()] or list(fields)
    if len(required) == 1 and fields[required[0]].annotation is str:
        return required[0]
    example = json.dumps(dict.fromkeys(required, "..."))
    raise HeliostatError(
        f"this model reads {', '.join(required) or 'no field'}, not one bare text. Use --json '{example}' or --file."
    )


def _show(rows: list[Row], answers: list[Row], predictor: Predictor) -> None:
    console = Console()
    if not console.is_terminal:
        for answer in answers:
            typer.echo(json.dumps(answer, ensure_ascii=False))
        return
    fields = [*rows[0], *predictor.head.gives.model_fields]
    table = Table(*fields)
    for row, answer in zip(rows, answers, strict=True):
        table.add_row(*(_cell({**row, **answer}.get(field)) for field in fields))
    console.print(table)
    if predictor.head.notice:
        console.print(predictor.head.notice, style="yellow")


def _cell(value: Any) -> str:
    from rich.markup import escape

    if isinstance(value, dict):
        return escape("\n".join(f"{key} {_cell(each)}" for key, each in value.items()))
    text = f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)
    return escape(text if len(text) <= 200 else f"{text[:199]}…")


def _answer_file(predictor: Predictor, file: str, out: Path) -> None:
    from heliostat.predict.tables import predict_file

    with _counting() as count:
        result = predict_file(predictor, file, out, on_progress=count)
    _tell(result, out)


def _answer_on_ray(checkpoint: Path, file: str, out: Path, precision: Literal["fp32", "bf16"]) -> None:
    from heliostat.serve.files import predict_file_on_ray

    with _counting() as count:
        result = predict_file_on_ray(checkpoint, file, out, precision=precision, on_progress=count)
    _tell(result, out)


@contextmanager
def _counting() -> Iterator[Callable[[int], None]]:
    """A line that counts records while it is shown."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.completed:,.0f} records"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("records", total=None)
        yield lambda done: progress.update(task, completed=done)


def _tell(result: FileResult, out: Path) -> None:
    typer.echo(f"{result.num_answered:,} of {result.num_rows:,} records answered: {out}", file=sys.stderr)
    if result.first_problem:
        where = "their reasons stand in the column prediction_problem"
        left_out = f", {result.num_unreadable:,} unreadable ones are left out" if result.num_unreadable else ""
        typer.echo(f"Not answered: {where}{left_out}. The first: {result.first_problem}", file=sys.stderr)
