"""The page of a comparison, in the style of the report."""

from __future__ import annotations

import math

from heliostat.evaluate.page import better, metric_name, render, signed
from heliostat.evaluate.paired import PairedReport
from heliostat.evaluate.report import overall
from heliostat.plugin import TaskHead


def write_page(report: PairedReport, head: TaskHead) -> None:
    """Write `compare.html`."""
    names = overall(report.differences, report.by_class)
    page = render(
        "compare.html",
        report=report,
        head=head,
        verdict=verdict(report),
        overall=[report.primary, *(name for name in names if name != report.primary)],
        by_class=report.by_class,
        better=better,
        p_text=p_text,
    )
    report.html.write_text(page, encoding="utf-8")


def verdict(report: PairedReport) -> str:
    """One sentence: which of the two is better by the metric that chose them, or that they are not told apart."""
    gap, name = report.differences[report.primary], metric_name(report.primary, report.by_class)
    if not math.isfinite(gap.value):
        return f"The {name} of one of the two is undefined on these rows."
    span = f"95 % interval {signed(gap.low)} to {signed(gap.high)}, {p_text(report.p_values[report.primary])}"
    gain = better(report.primary, gap)
    if gain is None:
        return f"Not told apart on these rows: {signed(gap.value)} {name} ({span})."
    ahead, behind = (report.first, report.second) if gain else (report.second, report.first)
    near, far = sorted((abs(gap.low), abs(gap.high)))
    span = f"95 % interval {near:.3f} to {far:.3f}, {p_text(report.p_values[report.primary])}"
    return f"{ahead} is better than {behind} by {abs(gap.value):.3f} {name} ({span})."


def p_text(value: float) -> str:
    """A p-value as people write it: no more digits than the resamples tell."""
    if not math.isfinite(value):
        return "p undefined"
    return f"p = {value:.3f}" if value >= 0.0095 else f"p = {value:.4f}"
