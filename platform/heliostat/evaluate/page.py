"""The report for people: one HTML file that needs nothing else. Everything that came from data is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from heliostat.evaluate import plots
from heliostat.evaluate.curves import read_curves
from heliostat.evaluate.drift import MOVED, STEADY
from heliostat.evaluate.intervals import Interval
from heliostat.evaluate.report import Report, overall
from heliostat.evaluate.table import MODEL, Predictions
from heliostat.heads.classification import Classification
from heliostat.heads.classification_metrics import CALIBRATION_BINS, reliability
from heliostat.plugin import Chart, TaskHead
from heliostat.run import protocol

MAX_CLASSES = 60
"""Classes up to which a confusion matrix can be read."""


class Leak(NamedTuple):
    """Texts of one split that also stand in another."""

    here: str
    there: str
    checked: int
    exact: int
    near: int


class SlicePlot(NamedTuple):
    """The slices of one column."""

    column: str
    svg: str
    rows: int
    """Rows that fall into the slices shown."""


def write_page(report: Report, head: TaskHead, predictions: Predictions, curves: Path | None) -> None:
    """Write `report.html`."""
    names = overall(report.scores, report.by_class)
    page = render(
        "report.html",
        report=report,
        head=head,
        verdict=verdict(report),
        protocol=protocol(report.run["data"]["split"]),
        overall=[report.primary, *(name for name in names if name != report.primary)],
        by_class=report.by_class,
        notes=list(_notes(report)),
        slice_plots=list(_slice_plots(report)),
        curves=_curves(report, curves),
        settings=list(flat(report.run)),
        leaks=list(_leaks(report)),
        suspects=report.leakage.get("suspects", ()),
        charts=_charts(report, head, predictions),
        moved=drift_word,
        better=better,
        **_classification(head, predictions),
    )
    report.html.write_text(page, encoding="utf-8")


def render(template: str, *, of: str = "heliostat.evaluate", by_class: Sequence[str] = (), **values: Any) -> str:
    """A page from a template of the room `of`, in the style that all of them share. Everything is escaped."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    room = resources.files("heliostat.evaluate")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "signed": signed, "svg": Markup}
    environment.filters["metric"] = partial(metric_name, by_class=by_class)
    style = Markup(room.joinpath("style.css").read_text("utf-8"))
    text = resources.files(of).joinpath(template).read_text("utf-8")
    return environment.from_string(text).render(style=style, by_class=by_class, **values)


def _classification(head: TaskHead, predictions: Predictions) -> dict[str, str]:
    """The plots of a classifier, empty for other heads."""
    if not isinstance(head, Classification):
        return {"confusion": "", "calibration": ""}
    view = predictions.view(MODEL)
    place = {label: index for index, label in enumerate(head.labels)}
    size = len(place)
    cells = view["target_label"].map(place).to_numpy() * size + view["label"].map(place).to_numpy()
    counts = np.bincount(cells.astype(np.int64), minlength=size * size).reshape(size, size)
    return {
        "confusion": plots.confusion(counts, head.labels) if size <= MAX_CLASSES else "",
        "calibration": plots.calibration(*reliability(view, head.labels), CALIBRATION_BINS),
    }


def _slice_plots(report: Report) -> Iterator[SlicePlot]:
    names = {MODEL: report.name} | {address: address for address in report.baselines}
    metric, whole = metric_name(report.primary, report.by_class), report.scores[report.primary].value
    for column, grouped in groupby(report.slices, key=lambda each: each.column):
        found = list(grouped)
        svg = plots.by_slice(found, metric, whole, names)
        yield SlicePlot(column, svg, sum(each.rows for each in found))


def _charts(report: Report, head: TaskHead, predictions: Predictions) -> list[tuple[Chart, str]]:
    """The head's own plots, each with its picture."""
    names = {MODEL: report.name}
    return [(chart, plots.chart(chart, names)) for chart in head.charts(predictions.views())]


def drift_word(psi: float) -> str:
    """What a population stability index says by custom."""
    return "steady" if psi < STEADY else "moved" if psi < MOVED else "another population"


def _curves(report: Report, path: Path | None) -> str:
    found = read_curves(path) if path and path.is_file() else {}
    return (
        plots.curves(found, report.primary, metric_name(report.primary, report.by_class))
        if "loss" in found or "valid/loss" in found
        else ""
    )


def verdict(report: Report) -> str:
    """One sentence: how the model stands beside its first baseline."""
    if not report.differences:
        return "No baseline was set beside it."
    address, differences = next(iter(report.differences.items()))
    difference = differences[report.primary]
    name = metric_name(report.primary, report.by_class)
    if not math.isfinite(difference.value):
        return f"The {name} of one of the two is undefined on these rows."
    span = f"95 % interval {signed(difference.low)} to {signed(difference.high)}"
    if not difference.excludes_zero:
        return f"Not told apart from {address} on these rows: {signed(difference.value)} {name} ({span})."
    word = "Better" if better(report.primary, difference) else "Worse"
    return f"{word} than {address} by {abs(difference.value):.3f} {name} ({span})."


def better(metric: str, difference: Interval) -> bool | None:
    """Whether a difference is a gain (True) or a loss (False) beyond chance; None when it cannot be told."""
    if not difference.excludes_zero:
        return None
    return (difference.value < 0) if metric.endswith("_error") else (difference.value > 0)


def _leaks(report: Report) -> Iterator[Leak]:
    for pair, found in report.leakage.items():
        here, slash, there = pair.partition("/")
        if slash and isinstance(found, Mapping):
            yield Leak(here, there, *(int(found.get(key, 0)) for key in ("checked", "exact", "near")))


def _notes(report: Report) -> Iterator[str]:
    """How scores were computed, and what the intervals leave out, in a sentence each."""
    yield from (f"{metric_name(name)}: {signature}." for name, signature in report.signatures.items())
    never, sometimes = [], []
    for owner, scores in {"": report.scores, **report.baselines}.items():
        for name, score in scores.items():
            words = metric_name(name, report.by_class) + (f" of {owner}" if owner else "")
            if score.left_out == report.resamples:
                never.append(words)
            elif score.left_out:
                sometimes.append(f"{words} ({score.left_out:,})")
    if never:
        yield f"Undefined on these rows: {', '.join(never)}."
    if sometimes:
        yield f"Undefined on some resamples, which the interval leaves out: {', '.join(sometimes)}."


def metric_name(name: str, by_class: Sequence[str] = ()) -> str:
    """A metric's key as people write it. `by_class`: those that score one class each, whose name is at the end."""
    plain = {"macro_f1": "macro-F1", "auc": "AUC", "calibration_error": "calibration error", "ks": "KS"}
    plain |= {"latency_ms": "ms an answer", "size_mb": "megabytes"}
    for kind in ("precision", "recall"):
        if name in by_class and name.startswith(f"{kind}_"):
            return f"{kind} of {name.removeprefix(f'{kind}_')}"
    return plain.get(name, name.replace("_", " "))


def number(value: float) -> str:
    """Three decimals, or a dash for what is undefined."""
    return f"{value:.3f}" if math.isfinite(value) else "–"


def signed(value: float) -> str:
    """Three decimals with a sign, the minus as wide as the plus."""
    return f"{value:+.3f}".replace("-", "−") if math.isfinite(value) else "–"


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted keys with their values as text."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _shown(value)


def _shown(value: Any) -> str:
    if value is None or value in ({}, [], ()):
        return "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(_shown(inner) for inner in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shown(inner)}" for key, inner in value.items())
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)
