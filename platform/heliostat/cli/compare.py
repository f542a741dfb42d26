"""`heliostat compare`: two models on the same rows, with a paired interval for every metric."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

if TYPE_CHECKING:
    from heliostat.evaluate.paired import PairedReport, Side
    from heliostat.predict import Predictor

_SHOWN = 8
_MODEL = "name@alias, name:3, name (newest), a run id or a checkpoint's folder."


def command(
    first: Annotated[str, typer.Argument(metavar="A", help=_MODEL)],
    second: Annotated[str, typer.Argument(metavar="B", help="The same; differences are A minus B.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="With --data: its columns, as data.adapter.text=review."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the page; by default ./compare-A-B.")] = None,
    split: Annotated[Literal["train", "valid", "test"], typer.Option(help="The examples to score on.")] = "test",
    data: Annotated[
        str | None, typer.Option("--data", help="A labelled file to score on instead: all that data.source takes.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")] = None,
) -> None:
    """Compare two models on the same rows: paired intervals, p-values, and the examples where they differ."""
    from heliostat.cli.scored import Bar, check_options, rows_for
    from heliostat.cli.story import bars, console
    from heliostat.evaluate.paired import Side, compare_models
    from heliostat.predict import load

    check_options(data, split, overrides, idle=("baselines", "slices"))
    sides: list[Side] = []
    resamples: list[int] = []
    with bars() as progress:
        bar = Bar(progress)
        rows_name = split if data is None else data.rpartition("/")[2].partition("#")[0]
        for name, reference in zip(names(first, second), (first, second), strict=True):
            predictor: Predictor = load(reference, threads=threads)
            rows, run = rows_for(predictor, data, overrides or [])
            resamples.append(run.evaluate.resamples)
            sides.append(Side(name, predictor, rows.shards(split).ids.tolist(), list(rows.examples(split))))
        folder = out or Path(f"compare-{sides[0].name}-{sides[1].name}".replace(":", "-").replace("@", "-"))
        report = compare_models(
            sides[0], sides[1], folder, rows_name=rows_name, resamples=resamples[0], on_progress=bar
        )
    _show(report, private=sides[0].answers.head.private)
    console.print(f"page      {report.html}", soft_wrap=True)


def names(first: str, second: str) -> tuple[str, str]:
    """What two references are called: their last part, or as much as tells them apart."""
    parts = [[part for part in each.rstrip("/").split("/") if part] for each in (first, second)]
    for length in range(1, max(map(len, parts)) + 1):
        one, other = ("/".join(each[-length:]) for each in parts)
        if one != other:
            return one.replace("/", " "), other.replace("/", " ")
    return f"{parts[0][-1]} (A)", f"{parts[1][-1]} (B)"


def _show(report: PairedReport, *, private: bool) -> None:
    """The difference of every metric of the whole, and the examples that lie furthest apart."""
    from heliostat.cli.story import console
    from heliostat.evaluate.compare_page import verdict

    console.print(score_table(report, f"{report.rows:,} examples of {report.rows_name}"))
    apart = report.disagreements
    console.print(verdict(report), highlight=False)
    right = "".join(f", {side} right {count:,}" for side, count in apart.right.items())
    console.print(f"{apart.num_differing:,} answers differ{right}.", highlight=False)
    if apart.shown:
        console.print(_differing(report, private=private))


def score_table(report: PairedReport, title: str) -> Table:
    """Every metric of the whole for both, with their difference."""
    from heliostat.evaluate.compare_page import p_text
    from heliostat.evaluate.page import number, signed
    from heliostat.evaluate.report import overall

    title = f"{title}, 95 % intervals"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("metric", no_wrap=True)
    for heading in (report.first, report.second, "difference", ""):
        table.add_column(heading, justify="right")
    for name in overall(report.differences, report.by_class):
        gap, one, other = (report.differences[name], report.scores["first"][name], report.scores["second"][name])
        spans = f"{signed(gap.value)} ({signed(gap.low)}, {signed(gap.high)})"
        table.add_row(name, number(one.value), number(other.value), spans, p_text(report.p_values[name]))
    return table


def _differing(report: PairedReport, *, private: bool) -> Table:
    from rich.markup import escape

    table = Table("apart", "id" if private else "record", "target", report.first, report.second)
    for each in report.disagreements.shown[:_SHOWN]:
        record = each.text if len(each.text) <= 160 else f"{each.text[:159]}…"
        cells = (record or str(each.id), each.target, each.first, each.second)
        table.add_row(f"{each.distance:.2f}", *map(escape, cells))
    return table
