"""The pictures of a sweep: every trial as a line over its settings, what settings matter, how trials learned."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heliostat.evaluate.page import metric_name
from heliostat.evaluate.plots import AMBER, BLUE, INK, MUTED, SKY, picture
from heliostat.run.domains import Choice, Dimension, Range
from heliostat.tune.objectives import front, value_of
from heliostat.tune.records import Aim, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXIS = "#b9c2cc"
_ABSENT = -0.14
"""Where a setting stands that a trial does not have."""


def parallel(dimensions: Sequence[Dimension], trials: Sequence[Trial], best: Trial, metric: str, sign: float) -> str:
    """Each trial as a line over its settings to its best score; the darker, the better. `sign` turns errors back."""
    shown = [trial for trial in trials if trial.best]
    scores = [trial.best.score for trial in shown if trial.best]
    low, high = min(scores), max(scores)
    spread = high - low or 1.0
    out: list[str] = []
    with picture(max(7.0, 1.7 * (len(dimensions) + 1)), 4.2, out) as figure:
        axes = figure.subplots()
        for trial in sorted(shown, key=lambda each: (each.number == best.number, each.best.score if each.best else 0)):
            assert trial.best
            share = (trial.best.score - low) / spread
            heights = [_height(each, trial.values) for each in dimensions]
            is_best = trial.number == best.number
            axes.plot(
                range(len(heights) + 1),
                [*heights, share],
                color=AMBER if is_best else BLUE,
                alpha=1.0 if is_best else 0.12 + 0.68 * share**2,
                linewidth=2.4 if is_best else 1.2,
                linestyle="-" if trial.state == "finished" else (0, (4, 2)),
                solid_joinstyle="round",
                zorder=4 if is_best else 2 + share,
            )
        for place, each in enumerate(dimensions):
            _axis(axes, place, _ticks(each.domain))
            if each.condition:
                axes.text(place, _ABSENT, "absent", ha="center", va="top", color=MUTED, fontsize=7.5)
        _axis(axes, len(dimensions), [(share, f"{sign * (low + share * spread):.4g}") for share in (0.0, 0.5, 1.0)])
        axes.set_xticks(range(len(dimensions) + 1), [*(_broken(each.key) for each in dimensions), metric])
        axes.tick_params(axis="x", labelcolor=INK, pad=8)
        axes.get_xticklabels()[-1].set_fontweight("bold")
        axes.set_yticks([])
        axes.set_xlim(-0.15, len(dimensions) + 0.45)
        axes.set_ylim(-0.2 if any(each.condition for each in dimensions) else -0.06, 1.06)
        axes.grid(False)
        axes.spines[:].set_visible(False)
    return out[0]


def shares(found: Mapping[str, float]) -> str:
    """The importance of each setting, the greatest on top."""
    names = sorted(found, key=lambda name: found[name])
    out: list[str] = []
    with picture(5.2, 0.7 + 0.36 * len(names), out) as figure:
        axes = figure.subplots()
        axes.barh(names, [found[name] for name in names], color=SKY, height=0.62)
        for place, name in enumerate(names):
            axes.text(found[name] + 0.012, place, f"{found[name]:.0%}", va="center", fontsize=9)
        axes.set_xlim(0, max(found.values()) * 1.15 + 0.03)
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_xticks([])
        axes.grid(False)
        axes.spines[:].set_visible(False)
    return out[0]


def learning(trials: Sequence[Trial], best: Trial, metric: str, sign: float) -> str:
    """The score of each trial against the passes it had made: finished ones, those that were stopped, the best."""
    out: list[str] = []
    with picture(5.2, 3.6, out) as figure:
        axes = figure.subplots()
        for trial in sorted(trials, key=lambda each: (each.number == best.number, each.state == "finished")):
            if not trial.curve:
                continue
            colour = AMBER if trial.number == best.number else BLUE if trial.state == "finished" else "#b9c2cc"
            epochs, scores = [point.epochs for point in trial.curve], [sign * point.score for point in trial.curve]
            width = 2.4 if trial.number == best.number else 1.1
            style = (0, (4, 2)) if trial.is_default else "-"
            alpha = 1.0 if width > 2 or trial.is_default else 0.75
            axes.plot(epochs, scores, color=colour, linewidth=width, alpha=alpha, linestyle=style)
            axes.plot(epochs[-1:], scores[-1:], color=colour, marker="o", markersize=3.2)
        axes.set_xlabel("passes over the train split")
        axes.set_ylabel(metric)
    return out[0]


def tradeoff(trials: Sequence[Trial], best: Trial, aims: Sequence[Aim], cost: str) -> str:
    """The first of what trials are compared by against another: each a point, the front of all of them in blue."""
    from matplotlib.ticker import EngFormatter

    first, kept = aims[0].name, {trial.number for trial in front(trials, aims)}
    out: list[str] = []
    with picture(5.2, 3.4, out) as figure:
        axes = figure.subplots()
        for trial in sorted(trials, key=lambda each: (each.number == best.number, each.number in kept)):
            x, y = value_of(trial, cost), value_of(trial, first)
            if x is None or y is None:
                continue
            is_best, is_kept = trial.number == best.number, trial.number in kept
            colour = AMBER if is_best else BLUE if is_kept else "#b9c2cc"
            axes.plot([x], [y], color=colour, marker="o", markersize=8 if is_best else 6 if is_kept else 4.5)
            if is_kept or trial.is_default:
                name = f"{trial.number}{' as it was' if trial.is_default else ''}"
                axes.annotate(name, (x, y), xytext=(6, 5), textcoords="offset points", fontsize=8, color=INK)
        axes.xaxis.set_major_formatter(
            EngFormatter(sep="") if cost == "parameters" else axes.xaxis.get_major_formatter()
        )
        axes.set_xlabel(metric_name(cost))
        axes.set_ylabel(metric_name(first))
        axes.margins(0.12)
    return out[0]


def _broken(key: str) -> str:
    """A dotted key on two lines."""
    section, dot, name = key.rpartition(".")
    return f"{section}{dot}\n{name}"


def _height(each: Dimension, values: Mapping[str, Any]) -> float:
    if each.key not in values:
        return _ABSENT
    value, domain = values[each.key], each.domain
    if isinstance(domain, Choice):
        written = [json.dumps(option) for option in domain.options]
        return written.index(json.dumps(value)) / max(1, len(written) - 1)
    return _share(value, domain)


def _share(value: float, domain: Range) -> float:
    low, high = domain.low, domain.high
    if low == high:
        return 0.5
    if domain.is_log:
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return (value - low) / (high - low)


def _ticks(domain: Choice | Range) -> list[tuple[float, str]]:
    if isinstance(domain, Choice):
        names = [_option(option) for option in domain.options]
        return [
            (place / max(1, len(names) - 1), name if len(name) < 19 else f"{name[:17]}…")
            for place, name in enumerate(names)
        ]
    if domain.is_log:
        powers = range(math.ceil(math.log10(domain.low) - 1e-9), math.floor(math.log10(domain.high) + 1e-9) + 1)
        marks = [10.0**power for power in powers if domain.low < 10.0**power < domain.high]
        values = [domain.low, *marks, domain.high] if len(marks) < 5 else [domain.low, domain.high]
    else:
        values = [domain.low, (domain.low + domain.high) / 2, domain.high]
    kept = [(_share(value, domain), f"{value:.4g}") for value in values]
    return [tick for place, tick in enumerate(kept) if place == 0 or tick[0] - kept[place - 1][0] > 0.05]


def _option(option: Any) -> str:
    """A value of a choice in few letters: `muon, lr 0.02` for a mapping."""
    if isinstance(option, Mapping):
        return ", ".join(str(value) if key == "type" else f"{key} {value}" for key, value in option.items())
    return option if isinstance(option, str) else json.dumps(option)


def _axis(axes: Axes, place: int, ticks: Sequence[tuple[float, str]]) -> None:
    axes.plot([place, place], [0, 1], color=AXIS, linewidth=1.2, zorder=1)
    for height, text in ticks:
        axes.plot([place - 0.02, place + 0.02], [height, height], color=MUTED, linewidth=0.8, zorder=5)
        box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6}
        axes.text(place + 0.04, height, text, va="center", color=INK, fontsize=8, bbox=box, zorder=6)
