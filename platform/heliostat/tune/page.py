"""`sweep.html`: what was tried, what it hung on, what came of it. One file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from heliostat.evaluate.page import metric_name, render
from heliostat.tune import plots
from heliostat.tune.driver import Sweep
from heliostat.tune.importance import importance
from heliostat.tune.records import Trial
from heliostat.tune.told import changes


def write_page(sweep: Sweep) -> Path:
    """Write `sweep.html` into the sweep's folder."""
    sign, metric = (-1.0 if sweep.is_error else 1.0), metric_name(sweep.metric)
    dimensions, trials = sweep.plan.space.dimensions, sweep.trials
    found = importance(sweep.plan.space, trials)
    page = render(
        "sweep.html",
        of="heliostat.tune",
        sweep=sweep,
        metric_of=metric,
        searched=[(each.key, str(each)) for each in dimensions],
        counts={state: sum(trial.state == state for trial in trials) for state in ("finished", "stopped", "failed")},
        seconds=sum(trial.seconds for trial in trials),
        best=_row(sweep.best, sign),
        default=next((_row(trial, sign) for trial in trials if trial.is_default and trial.best), None),
        gain=_gain(sweep, sign),
        rows=[_row(trial, sign) for trial in _ranked(trials)],
        keys=[each.key for each in dimensions],
        exploits=_exploits(trials, sign),
        parallel=plots.parallel(dimensions, trials, sweep.best, metric, sign),
        learning=plots.learning(trials, sweep.best, metric, sign),
        importance=found,
        shares=plots.shares(found.shares) if found else "",
    )
    path = sweep.folder / "sweep.html"
    path.write_text(page, encoding="utf-8")
    return path


def _ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Finished trials by their scores, then those that were stopped, then those that failed."""
    order = {"finished": 0, "stopped": 1, "failed": 2, "running": 3}
    return sorted(trials, key=lambda each: (order[each.state], -each.best.score if each.best else 0.0))


def _row(trial: Trial, sign: float) -> Mapping[str, Any]:
    best, last = trial.best, trial.curve[-1] if trial.curve else None
    return {
        "number": trial.number,
        "state": trial.state,
        "is_default": trial.is_default,
        "score": None if best is None else sign * best.score,
        "epochs": None if last is None else last.epochs,
        "seconds": trial.seconds,
        "reason": trial.reason,
        "values": {key: _spelled(value) for key, value in trial.values.items()},
    }


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


def _spelled(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
