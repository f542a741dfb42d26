"""What a sweep leaves behind: the best run as a file, the table of trials, the best model in the store."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from heliostat.data.fingerprint import write_whole
from heliostat.run import place, render
from heliostat.tune.driver import Sweep
from heliostat.tune.population import schedule

if TYPE_CHECKING:
    from heliostat.models import ModelVersion


def write_best(sweep: Sweep) -> Path:
    """Write `best.yaml`, the best run with a comment at each searched setting, and `trials.json`, the table."""
    written = sweep.plan.written
    ended = sum(trial.has_ended for trial in sweep.trials)
    notes = [(place({}, {key: value}), f"searched: {written.get(key)}") for key, value in sweep.best.values.items()]
    best = sweep.best.best
    assert best  # or it would not be the best
    head = (
        f"# The best of {ended} trials of the sweep {sweep.id}: trial {sweep.best.number}, "
        f"{name_of(sweep.metric)} {abs(best.score):.6g} after step {best.step}.\n"
    )
    text = head + _schedule(sweep) + render(sweep.plan.best(dict(sweep.best.values)), notes)
    path = sweep.folder / "best.yaml"
    write_whole(path, text.encode())
    table = {
        "sweep": sweep.id,
        "metric": sweep.metric,
        "best": sweep.best.number,
        "trials": [asdict(trial) for trial in sweep.trials],
    }
    write_whole(sweep.folder / "trials.json", json.dumps(table, indent=1, ensure_ascii=False).encode())
    return path


def _schedule(sweep: Sweep) -> str:
    """With which settings the best weights of a population were trained, as comments."""
    if not sweep.plan.settings.is_population:
        return ""
    lines = ["A population: its weights were trained with these settings in turn, of which the last stand below."]
    for leg in schedule({trial.number: trial for trial in sweep.trials}, sweep.best.number):
        values = ", ".join(f"{key}={value}" for key, value in leg.values.items())
        lines.append(f"  from step {leg.step} (trial {leg.member}): {values}")
    return "".join(f"# {line}\n" for line in lines)


def stored(sweep: Sweep) -> ModelVersion:
    """Store the best model under the run's name. Its run id names the sweep and the trial."""
    from heliostat.data.prepared import Prepared
    from heliostat.models.store import ModelStore
    from heliostat.train.finish import finished_model

    folder = sweep.checkpoint.parent.parent
    model = finished_model(folder, sweep.checkpoint, Prepared.open(sweep.prepared))
    scores = {name: value for name, value in sweep.best.scores.items() if name.startswith("valid/")}
    store = ModelStore()
    return store.add(sweep.plan.run.name, model, run_id=folder.name, data_key=sweep.prepared.name, scores=scores)


def name_of(metric: str) -> str:
    """A validation score as the journal names it."""
    return f"valid/{metric}"
