"""A run, here or on Ray: prepare the data once, start the workers, hand back the best checkpoint."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import NamedTuple

from heliostat import checkpoint
from heliostat.errors import Stopped, TrainError
from heliostat.run import Run
from heliostat.train import run_folder
from heliostat.train.signals import Wish, stop_signals


class Watcher:
    """Somebody who is told how a training goes; this one does not care."""

    def preparing(self, stage: str, done: int, total: int | None) -> None:
        """Data are being prepared: `done` of `total` records of this stage, where the total is known."""

    def training(self, folder: Path) -> None:
        """Workers are training; their journal in `folder` says how far they are. Called a few times a second."""


class TrainResult(NamedTuple):
    """A finished training."""

    run_id: str
    folder: Path
    checkpoint: Path
    """The checkpoint with the best validation."""
    prepared: Path
    steps: int
    seconds: float
    """Wall seconds of the training, preparation and start-up of workers included."""


def train(
    run: Run | None, *, resume: str | None = None, run_id: str | None = None, watcher: Watcher | None = None
) -> TrainResult:
    """Train a run, or go on with the run of id `resume`.

    One worker trains in this process; several, or a cluster named by `RAY_ADDRESS`, train on Ray. Raises TrainError,
    DataError or CheckpointError, and Stopped (exit code 130 or 143) after Ctrl-C or SIGTERM, with a checkpoint kept.
    """
    started = time.monotonic()
    if resume:
        run, folder = run_folder.reopen(resume)
    elif run is None:
        raise TrainError("there is nothing to train: name a run, or continue one with --resume ID.")
    else:
        folder = run_folder.create(run, run_id)
    with run_folder.locked(folder), stop_signals(lambda: run_folder.ask_to_stop(folder)) as wish:
        try:
            prepared = _train(run, folder, watcher or Watcher())
        except Stopped as stopped:
            raise _with_way_on(stopped, folder, wish) from None
    return _result(folder, prepared, time.monotonic() - started)


def _train(run: Run, folder: Path, watcher: Watcher) -> Path:
    from heliostat.ingest import prepare

    prepared = prepare(run, on_progress=watcher.preparing)
    if run_folder.is_asked_to_stop(folder):
        raise Stopped("stopped before the first step.")
    watcher.training(folder)
    if run.scaling.most_workers == 1:
        _train_here(run, prepared.folder, folder, watcher)
    else:
        from heliostat.ray_session import ray_session
        from heliostat.train.on_ray import train_on_ray

        with ray_session(folder / "ray.log"):
            train_on_ray(run, prepared.folder, folder, poll=lambda: watcher.training(folder))
    return prepared.folder


def _train_here(run: Run, prepared: Path, folder: Path, watcher: Watcher) -> None:
    from heliostat.data.prepared import Prepared
    from heliostat.train.loop import fit
    from heliostat.train.worker import LocalWorker, set_threads, share_of_cores

    set_threads(run.scaling.threads_per_worker or share_of_cores(1))

    def asked_to_stop() -> bool:
        watcher.training(folder)
        return run_folder.is_asked_to_stop(folder)

    outcome = fit(run, Prepared.open(prepared), LocalWorker(asked_to_stop), folder)
    (folder / "outcome.json").write_text(json.dumps(outcome._asdict()), encoding="utf-8")


def _with_way_on(stopped: Stopped, folder: Path, wish: Wish) -> Stopped:
    message = f"{stopped} Continue with: heliostat train --resume {folder.name}"
    return Stopped(message, exit_code=wish.exit_code)


def _result(folder: Path, prepared: Path, seconds: float) -> TrainResult:
    path = folder / "outcome.json"
    if not path.exists():
        raise TrainError(f"the run '{folder.name}' ended without a result. See {folder / 'ray.log'}.")
    outcome = json.loads(path.read_text(encoding="utf-8"))
    best = checkpoint.step_folder(folder / "checkpoints", int(outcome["best"][0]))
    checkpoint.verify(best)
    return TrainResult(folder.name, folder, best, prepared, int(outcome["step"]), seconds)
