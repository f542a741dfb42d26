"""The report's plots as inline SVG: no scripts, no addresses, text that can be selected."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from heliostat.evaluate.curves import Curve
from heliostat.evaluate.intervals import Interval
from heliostat.evaluate.slices import Slice
from heliostat.plugin import Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = npt.NDArray[np.float64]

INK, MUTED, RULE = "#1d2733", "#66727f", "#dfe4ea"
BLUE, AMBER, SKY = "#1f5fae", "#c77700", "#8fb4e3"

_STYLE = {
    "svg.fonttype": "none",  # text stays text; the page's own font draws it
    "svg.hashsalt": "heliostat",  # equal plots are equal bytes
    "text.parse_math": False,  # a label may hold a dollar sign
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#edf0f3",
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}

_PAGE_FONT = "'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"


@contextmanager
def picture(width: float, height: float, out: list[str]) -> Iterator[Figure]:
    """A figure of that size in inches, whose SVG is appended to `out` when the block ends."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        out.append(_inline(figure))


def _inline(figure: Figure) -> str:
    """The figure's SVG element alone: no prologue, no metadata, no namespace addresses."""
    stream = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg, count=2)
    svg = svg.replace("xlink:href", "href").replace("'DejaVu Sans'", _PAGE_FONT).replace("*{", "svg *{", 1)
    prefix = f"p{abs(hash(svg)) % 10**10}"
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    return svg.replace("url(#", f"url(#{prefix}-").replace('href="#', f'href="#{prefix}-')


def confusion(counts: npt.NDArray[np.int64], labels: Sequence[str]) -> str:
    """The confusion matrix, rows the targets, shaded by the share of the row."""
    size = len(labels)
    side = float(np.clip(1.9 + 0.62 * size, 3.4, 9.0))
    out: list[str] = []
    with picture(side + 0.5, side, out) as figure:
        axes = figure.subplots()
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        # Not imshow: it would put a bitmap into the page.
        edges = np.arange(size + 1) - 0.5
        axes.pcolormesh(edges, edges, shares, cmap=_blues(), vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.set_aspect("equal")
        for row in range(size if size <= 25 else 0):
            for column in range(size):
                colour = "white" if shares[row, column] > 0.5 else INK
                text = f"{counts[row, column]:,}" + (f"\n{shares[row, column]:.0%}" if size <= 8 else "")
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9.5 if size <= 12 else 6)
        names = [_short(label, 18) for label in labels]
        axes.set_xticks(range(size), names, rotation=0 if size <= 5 else 60, ha="center" if size <= 5 else "right")
        axes.set_yticks(range(size), names)
        axes.set_xlabel("predicted")
        axes.set_ylabel("target")
        axes.grid(False)
        axes.spines[:].set_visible(False)
    return out[0]


def calibration(
    confidence: npt.NDArray[np.float64], hits: npt.NDArray[np.float64], places: npt.NDArray[np.int64], bins: int
) -> str:
    """A reliability diagram: accuracy against confidence in each bin, with the count of rows below."""
    out: list[str] = []
    with picture(4.4, 3.9, out) as figure:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
        rows = np.bincount(places, minlength=bins)
        filled = np.flatnonzero(rows)
        means = np.bincount(places, confidence, bins)[filled] / rows[filled]
        rates = np.bincount(places, hits, bins)[filled] / rows[filled]
        low, high = wilson(rates, rows[filled])
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.vlines(means, low, high, color=SKY, linewidth=2.2, zorder=2)
        axes.plot(means, rates, color=BLUE, marker="o", markersize=5, linewidth=1.4, zorder=3)
        axes.set_ylim(-0.02, 1.02)
        axes.set_ylabel("accuracy")
        below.bar((np.arange(bins) + 0.5) / bins, rows, 0.9 / bins, color=SKY)
        below.set_ylabel("rows")
        below.set_xlabel("confidence (highest probability)")
        left = max(0.0, float(confidence.min()) - 0.06) if len(confidence) else 0.0
        below.set_xlim(left, 1.015)
    return out[0]


def wilson(rates: Values, rows: npt.NDArray[np.int64], z: float = 1.96) -> tuple[Values, Values]:
    """The 95 % interval of a rate seen in so many rows (Wilson 1927): within 0 and 1, and wide for few rows."""
    centre = (rates + z**2 / (2 * rows)) / (1 + z**2 / rows)
    half = z / (1 + z**2 / rows) * np.sqrt(rates * (1 - rates) / rows + z**2 / (4 * rows**2))
    return centre - half, centre + half


def by_slice(found: Sequence[Slice], metric: str, overall: float, names: Mapping[str, str]) -> str:
    """The score of each slice of one column with its interval; `names` is how each model is called, ours first."""
    out: list[str] = []
    with picture(8.6, 0.75 + 0.44 * len(found) + 0.3, out) as figure:
        axes = figure.subplots()
        axes.axvline(overall, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        for place, model in reversed(list(enumerate(list(names)[:2]))):
            heights = np.arange(len(found), dtype=np.float64) + (0.13 if place else -0.13)
            _whiskers(axes, [each.scores[model] for each in found], heights, AMBER if place else BLUE, names[model])
        labels = [f"{_short(each.value, 32)}  ({each.rows:,})" for each in found]
        axes.set_yticks(range(len(found)), labels, color=INK)
        axes.set_ylim(len(found) - 0.45, -0.55)
        axes.set_xlabel(metric)
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        figure.legend(*_reversed(axes), loc="outside upper right", ncols=2, fontsize=9, handletextpad=0.1)
    return out[0]


def _reversed(axes: Axes) -> tuple[list[Any], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    return handles[::-1], labels[::-1]


def _whiskers(
    axes: Axes, scores: Sequence[Interval], heights: npt.NDArray[np.float64], colour: str, label: str
) -> None:
    values = np.array([score.value for score in scores])
    axes.hlines(
        heights, [score.low for score in scores], [score.high for score in scores], color=colour, alpha=0.45, lw=2.6
    )
    axes.plot(values, heights, "o", color=colour, markersize=5.5, label=label)


def curves(found: Mapping[str, Curve], chosen: str, title: str) -> str:
    """The loss on train and valid by step, and beside it the score `valid/<chosen>`, called `title`."""
    losses = {name: found[name] for name in ("loss", "valid/loss") if name in found}
    panels = [("loss", losses)] if losses else []
    if f"valid/{chosen}" in found and chosen != "loss":
        panels.append((f"{title} on valid", {f"valid/{chosen}": found[f"valid/{chosen}"]}))
    out: list[str] = []
    with picture(8.6, 2.9, out) as figure:
        every = figure.subplots(1, max(1, len(panels)), squeeze=False)[0]
        for axes, (heading, shown) in zip(every, panels, strict=False):
            for name, curve in shown.items():
                valid = name.startswith("valid/")
                if not valid and len(curve.values) > 40:
                    axes.plot(curve.steps, curve.values, color=SKY, linewidth=0.7, alpha=0.6)
                    curve = curve.smoothed()
                marker = {"marker": "o", "markersize": 4.5} if valid or len(curve.values) < 12 else {}
                axes.plot(
                    curve.steps,
                    curve.values,
                    color=AMBER if valid else BLUE,
                    label="valid" if valid else "train",
                    **marker,
                )
            axes.set_title(heading)
            axes.set_xlabel("step")
            axes.xaxis.get_major_locator().set_params(integer=True)
            if len(shown) > 1:
                axes.legend(fontsize=9)
    return out[0]


_LINES = (BLUE, AMBER, "#6b7f94", "#b8c2cd", SKY)


def chart(drawn: Chart, names: Mapping[str, str]) -> str:
    """Lines that a head describes; `names` is how models are called, others go by the name of their line."""
    out: list[str] = []
    with picture(4.6, 3.6, out) as figure:
        axes = figure.subplots()
        for place, (name, (x, y)) in enumerate(drawn.lines.items()):
            marker = "o" if len(x) <= 20 and drawn.diagonal else ""
            colour = _LINES[place % len(_LINES)]
            axes.plot(x, y, color=colour, linewidth=1.5, label=names.get(name, name), marker=marker, markersize=4.5)
        if drawn.diagonal:
            most = max([each for x, y in drawn.lines.values() for each in (*x, *y)], default=1.0)
            axes.plot([0, most], [0, most], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlabel(drawn.x)
        axes.set_ylabel(drawn.y)
        axes.legend(fontsize=9)
    return out[0]


def _blues() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("heliostat", ["#f5f8fc", SKY, BLUE, "#123f78"])


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
