"""`sweep.html`: what was tried, what it hung on, what came of it. One file that needs nothing else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from heliostat.evaluate.compare_page import p_text, verdict
from heliostat.evaluate.page import better, metric_name, render
from heliostat.evaluate.report import overall
from heliostat.run import MEASURED
from heliostat.tune import plots
from heliostat.tune.driver import Sweep
from heliostat.tune.gain import default_of, why_unknown
from heliostat.tune.importance import Importance, importance
from heliostat.tune.objectives import front, value_of
from heliostat.tune.records import Aim, Trial
from heliostat.tune.told import changes

if TYPE_CHECKING:
    from heliostat.evaluate.paired import PairedReport


class Setting(NamedTuple):
    """One searched setting, as the page tells of it."""

    key: str
    domain: str
    default: str
    best: str
    is_changed: bool


def write_page(sweep: Sweep, compared: PairedReport | None = None) -> Path:
    """Write `sweep.html` into the sweep's folder. `compared` is the best trial beside the run as it stood, on test."""
    sign, metric = (-1.0 if sweep.is_error else 1.0), metric_name(sweep.metric)
    dimensions, trials, best = sweep.plan.space.dimensions, sweep.trials, sweep.best
    found = importance(sweep.plan.space, trials)
    aims = sweep.aims or (Aim(sweep.metric, sweep.is_error),)
    metrics = [aim.name for aim in aims]
    page = render(
        "sweep.html",
        of="heliostat.tune",
        sweep=sweep,
        metric_of=metric,
        metrics=metrics[1:],
        name_of=metric_name,
        measured=MEASURED,
        counts=Counter(trial.state for trial in trials),
        spared=_spared(trials),
        seconds=sum(trial.seconds for trial in trials),
        best=_row(best, sign, metrics),
        default=next((_row(trial, sign, metrics) for trial in trials if trial.is_default and trial.best), None),
        gain=_gain(sweep, sign),
        compared=compared,
        by_class=compared.by_class if compared else (),
        tested=verdict(compared) if compared else why_unknown(sweep),
        shown=_shown(compared),
        better=better,
        p_text=p_text,
        front=[_row(trial, sign, metrics) for trial in front(trials, aims)] if len(aims) > 1 else [],
        tradeoffs=[plots.tradeoff(trials, best, aims, cost) for cost in metrics[1:]],
        endings=Counter(_ending(trial) for trial in trials if trial.state in ("stopped", "failed")).most_common(8),
        rows=[_row(trial, sign, metrics) for trial in _ranked(trials)],
        keys=[each.key for each in dimensions],
        exploits=_exploits(trials, sign),
        parallel=plots.parallel(dimensions, trials, best, metric, sign),
        learning=plots.learning(trials, best, metric, sign),
        importance=found,
        shares=plots.shares(found.shares) if found else "",
        settings=list(_settings(sweep, found)),
    )
    path = sweep.folder / "sweep.html"
    path.write_text(page, encoding="utf-8")
    return path


def _settings(sweep: Sweep, found: Importance | None) -> Iterator[Setting]:
    """Every searched setting, those first that matter most."""
    default = default_of(sweep)
    shares = found.shares if found else {}
    for each in sorted(sweep.plan.space.dimensions, key=lambda each: -shares.get(each.key, 0.0)):
        before, after = (spelled(trial.values.get(each.key)) if trial else "" for trial in (default, sweep.best))
        is_changed = default is not None and before != after
        yield Setting(each.key, str(each), before, after, is_changed)


def _shown(compared: PairedReport | None) -> list[str]:
    """The metrics of the whole, the primary one first."""
    if compared is None:
        return []
    names = overall(compared.differences, compared.by_class)
    return [compared.primary, *(name for name in names if name != compared.primary)]


def _spared(trials: Sequence[Trial]) -> float:
    """The share of the passes that early stops saved."""
    parts = [(trial.curve[-1].epochs, trial.curve[-1].progress) for trial in trials if trial.curve]
    whole = sum(epochs / progress for epochs, progress in parts if progress)
    return 1.0 - sum(epochs for epochs, _ in parts) / whole if whole else 0.0


def _ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Finished trials by their scores, then those that were stopped, then those that failed."""
    order = {"finished": 0, "stopped": 1, "failed": 2, "running": 3}
    return sorted(trials, key=lambda each: (order[each.state], -each.best.score if each.best else 0.0))


def _row(trial: Trial, sign: float, metrics: Sequence[str]) -> Mapping[str, Any]:
    best, last = trial.best, trial.curve[-1] if trial.curve else None
    return {
        "number": trial.number,
        "state": trial.state,
        "is_default": trial.is_default,
        "score": None if best is None else sign * best.score,
        "others": {name: _told(value_of(trial, name), name) for name in metrics[1:]},
        "epochs": None if last is None else last.epochs,
        "seconds": trial.seconds,
        "reason": trial.reason,
        "values": {key: spelled(value) for key, value in trial.values.items()},
    }


def _told(value: float | None, name: str) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if name == "parameters" else f"{value:.2f}" if name in MEASURED else f"{value:.3f}"


def _ending(trial: Trial) -> str:
    """Why it ended early; after how many passes stands in the table."""
    return trial.reason.rpartition(" after ")[0] or trial.reason if trial.state == "stopped" else trial.reason


def _exploits(trials: Sequence[Trial], sign: float) -> list[Mapping[str, Any]]:
    """Who of a population went on from whom, in the order of their steps."""
    found = sorted(chain(*(trial.exploits for trial in trials)), key=lambda each: (each.step, each.member))
    return [
        {**asdict(each), "score": sign * each.score, "donor_score": sign * each.donor_score, "changed": changes(each)}
        for each in found
    ]


def _gain(sweep: Sweep, sign: float) -> float | None:
    """How far the best trial is from the run as it stood."""
    default = next((trial.best for trial in sweep.trials if trial.is_default and trial.best), None)
    return None if default is None or sweep.best.best is None else sign * (sweep.best.best.score - default.score)


def spelled(value: Any) -> str:
    """A value of a setting, short; a dash for one that a trial does not have."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
