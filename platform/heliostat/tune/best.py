"""What a sweep leaves behind: the best run as a file, the table of trials, the best model in the store."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from heliostat.data.fingerprint import write_whole
from heliostat.run import place, render
from heliostat.tune.driver import Sweep
from heliostat.tune.objectives import front, value_of
from heliostat.tune.population import schedule
from heliostat.tune.records import Trial

if TYPE_CHECKING:
    from heliostat.evaluate import Report
    from heliostat.evaluate.paired import PairedReport
    from heliostat.models import ModelVersion
    from heliostat.train.launch import TrainResult


def write_best(sweep: Sweep) -> Path:
    """Write `best.yaml`, the best run with a comment at each searched setting, and `trials.json`, the table.

    Of several metrics every trial of the front has its file, `front/0007.yaml`, and best.yaml is the knee.
    """
    ended = sum(trial.has_ended for trial in sweep.trials)
    path = sweep.folder / "best.yaml"
    write_whole(path, f"# The best of {ended} trials of the sweep {sweep.id}: {_spelled(sweep, sweep.best)}".encode())
    if len(sweep.aims) > 1:
        (sweep.folder / "front").mkdir(exist_ok=True)
        for trial in front(sweep.trials, sweep.aims):
            text = f"# No other of {ended} trials of the sweep {sweep.id} beats it: {_spelled(sweep, trial)}"
            write_whole(sweep.folder / "front" / f"{trial.number:04}.yaml", text.encode())
    table = {
        "sweep": sweep.id,
        "metric": sweep.metric,
        "metrics": [aim.name for aim in sweep.aims],
        "best": sweep.best.number,
        "trials": [asdict(trial) for trial in sweep.trials],
    }
    write_whole(sweep.folder / "trials.json", json.dumps(table, indent=1, ensure_ascii=False).encode())
    return path


def _spelled(sweep: Sweep, trial: Trial) -> str:
    """What a trial has reached, as the end of a comment, and its run."""
    assert trial.best  # or it would not be the best
    reached = [(aim.name, value_of(trial, aim.name)) for aim in sweep.aims[1:]]
    words = [
        f"trial {trial.number}",
        f"valid/{sweep.metric} {-trial.best.score if sweep.is_error else trial.best.score:.6g}",
    ]
    words += [f"{name} {value:.6g}" for name, value in reached if value is not None]
    written = sweep.plan.written
    notes = [(place({}, {key: value}), f"searched: {written.get(key)}") for key, value in trial.values.items()]
    run = render(sweep.plan.best(dict(trial.values)), notes)
    return f"{', '.join(words)} after step {trial.best.step}.\n{_schedule(sweep, trial)}{run}"


def _schedule(sweep: Sweep, trial: Trial) -> str:
    """With which settings the weights of a population's member were trained, as comments."""
    if not sweep.plan.settings.is_population:
        return ""
    lines = ["A population: its weights were trained with these settings in turn, of which the last stand below."]
    for leg in schedule({each.number: each for each in sweep.trials}, trial.number):
        values = ", ".join(f"{key}={value}" for key, value in leg.values.items())
        lines.append(f"  from step {leg.step} (trial {leg.member}): {values}")
    return "".join(f"# {line}\n" for line in lines)


def stored(sweep: Sweep, model: Path, compared: PairedReport | None = None) -> ModelVersion:
    """Store `model`, the best trial's, under the run's name. Its run id names the sweep and the trial.

    `compared` is what it reached on the test split; without, the scores are those of valid.
    """
    from heliostat.models.store import ModelStore

    valid = {name: value for name, value in sweep.best.scores.items() if name.startswith("valid/")}
    return ModelStore().add(
        sweep.plan.run.name,
        model,
        run_id=sweep.checkpoint.parent.parent.name,
        data_key=sweep.prepared.name,
        scores={**compared.scores["first"], **valid} if compared else valid,
        report=compared.folder if compared else None,
    )


def stored_refit(sweep: Sweep, result: TrainResult, report: Report | None) -> ModelVersion:
    """Store the model that was trained again on train and valid. Its run id names the sweep."""
    from heliostat.models.store import ModelStore

    return ModelStore().add(
        sweep.plan.run.name,
        result.checkpoint,
        run_id=result.run_id,
        data_key=result.prepared.name,
        scores=report.scores if report else {},
        baselines=report.baselines if report else None,
        report=report.folder if report else None,
    )
