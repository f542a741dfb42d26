"""A run, here or on Ray: prepare the data once, start the workers, hand back the best checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from heliostat import checkpoint
from heliostat.errors import Stopped, TrainError
from heliostat.run import Run, check, pinned
from heliostat.train import run_folder, torchrun
from heliostat.train.ancestry import ancestors_of, note_ancestors
from heliostat.train.crew import share_of_cores, trains_here
from heliostat.train.full_disk import full_disk_told
from heliostat.train.lookout import Lookout
from heliostat.train.mirror import bring
from heliostat.train.recovery import not_mirrored, ready
from heliostat.train.signals import Wish, stop_signals
from heliostat.train.tracking import require_trackers

if TYPE_CHECKING:
    from heliostat.data.prepared import Prepared


class Watcher:
    """Somebody who is told how a training goes; this one does not care."""

    def preparing(self, stage: str, done: int, total: int | None) -> None:
        """Data are being prepared: `done` of `total` records of this stage, where the total is known."""

    def training(self, folder: Path) -> None:
        """Workers are training; their journal in `folder` says how far they are. Called a few times a second."""

    def warn(self, sentence: str) -> None:
        """Something went wrong that does not end the training."""


class TrainResult(NamedTuple):
    """A finished training."""

    run_id: str
    folder: Path
    checkpoint: Path
    """The checkpoint with the best validation, its head's decision fitted on the valid split."""
    prepared: Path
    steps: int
    seconds: float
    """Wall seconds of the training, preparation and start-up of workers included."""
    not_mirrored: tuple[str, ...] = ()
    """Checkpoints that the run's mirror does not have, as it could not be reached to the end."""


def train(
    run: Run | None,
    *,
    resume: str | None = None,
    run_id: str | None = None,
    scaling: Mapping[str, Any] | None = None,
    watcher: Watcher | None = None,
) -> TrainResult:
    """Train a run, or go on with the run of id `resume`, on other workers if `scaling` says so.

    `resume` may be an address in a mirror, too: `s3://bucket/prefix/ID` is brought here first.

    One worker trains in this process; several train on Ray, and so do as many as a cluster named by `RAY_ADDRESS` has
    room for (`scaling.num_workers: auto`); those that torchrun started train with each other. Raises TrainError,
    DataError, CheckpointError, RunError (a pretrained model that is not there), and after Ctrl-C or SIGTERM Stopped
    (exit code 130 or 143), with a checkpoint kept.
    """
    started = time.monotonic()
    watcher = watcher or Watcher()
    here = torchrun.place()
    if here is not None:
        asked, is_new = run, not resume
        with torchrun.joined(here) as group:
            first = partial(_open, asked, resume, run_id, scaling)
            return _train_together(group, first, scaling, watcher, is_new=is_new)
    run, folder = _open(run, resume, run_id, scaling)
    with (
        run_folder.locked(folder),
        stop_signals(lambda: run_folder.ask_to_stop(folder)) as wish,
        full_disk_told(folder),
    ):
        ready(run, folder, watcher.warn, is_new=not resume)
        try:
            prepared = _train(run, folder, watcher)
            model, steps = _finished(folder, prepared)
        except Stopped as stopped:
            raise _with_way_on(stopped, folder, wish) from None
    missing = not_mirrored(run, folder, watcher.warn)
    return TrainResult(folder.name, folder, model, prepared, steps, time.monotonic() - started, missing)


def _open(
    run: Run | None, resume: str | None, run_id: str | None, scaling: Mapping[str, Any] | None
) -> tuple[Run, Path]:
    if resume:
        run_id = bring(resume, run_folder.runs_folder()) if "://" in resume else resume
        return run_folder.reopen(run_id, scaling)
    if run is None:
        raise TrainError("there is nothing to train: name a run, or continue one with --resume ID.")
    require_trackers(run.train.trackers)
    run = pinned(run)
    ancestors = ancestors_of(run)
    folder = run_folder.create(run, run_id)
    note_ancestors(folder, ancestors)
    return run, folder


def _train_together(
    group: torchrun.Group,
    first: Callable[[], tuple[Run, Path]],
    scaling: Mapping[str, Any] | None,
    watcher: Watcher,
    *,
    is_new: bool,
) -> TrainResult:
    """The training of all processes of torchrun, of which this is one. The first of them opens the run."""
    started = time.monotonic()
    with ExitStack() as stack:

        def opened() -> tuple[Any, str]:
            again = torchrun.claimed(run_folder.runs_folder()) if group.here.restarts else None
            run, folder = run_folder.reopen(again, scaling) if again else first()
            torchrun.check_world_size(run, group.here)
            stack.enter_context(run_folder.locked(folder))
            torchrun.claim(folder)
            ready(run, folder, watcher.warn, is_new=is_new and not again)
            return run.dump(), str(folder)

        values, path = group.agree(opened)
        run, folder = check(values), Path(path)
        wish = stack.enter_context(stop_signals(lambda: run_folder.ask_to_stop(folder), under_launcher=True))
        stack.enter_context(full_disk_told(folder))
        try:
            prepared = Path(group.agree(lambda: str(_prepared(run, folder, watcher).folder)))
            _train_in(group, run, prepared, folder, watcher)
            model, steps = group.agree(lambda: _finished(folder, prepared))
        except Stopped as stopped:
            raise _with_way_on(stopped, folder, wish) from None
    missing = not_mirrored(run, folder, watcher.warn) if group.here.rank == 0 else ()
    return TrainResult(folder.name, folder, model, prepared, steps, time.monotonic() - started, missing)


def _train_in(group: torchrun.Group, run: Run, prepared: Path, folder: Path, watcher: Watcher) -> None:
    from heliostat.data.prepared import Prepared
    from heliostat.train.loop import fit
    from heliostat.train.worker import TorchWorker, set_threads

    set_threads(run.scaling.threads_per_worker or share_of_cores(group.here.local_world_size))
    look = Lookout(watcher, folder, timeout_s=run.scaling.timeout_s)

    def asked_to_stop() -> bool:
        look()
        return run_folder.is_asked_to_stop(folder)

    worker = TorchWorker(group.device, asked_to_stop, strategy=run.scaling.strategy, precision=run.train.precision)
    outcome = fit(run, Prepared.open(prepared), worker, folder)
    if worker.rank == 0:
        (folder / "outcome.json").write_text(json.dumps(outcome._asdict()), encoding="utf-8")


def _train(run: Run, folder: Path, watcher: Watcher) -> Path:
    look = Lookout(watcher, folder, timeout_s=run.scaling.timeout_s)
    if trains_here(run.scaling):
        prepared = _prepared(run, folder, watcher).folder
        _train_here(run, prepared, folder, look)
        return prepared
    from heliostat.ray_session import coming_session, is_elsewhere, ray_session
    from heliostat.train.nodes import check_nodes
    from heliostat.train.on_ray import train_on_ray

    log = folder / "ray.log"
    with coming_session(log):  # what workers need is imported while the data are looked at
        if is_elsewhere():  # a cluster is looked at before anything costs time
            with ray_session(log):
                check_nodes(folder)
                prepared = _prepared(run, folder, watcher).folder
                train_on_ray(run, prepared, folder, look)
            return prepared
        prepared = _prepared(run, folder, watcher).folder
        with ray_session(log):
            train_on_ray(run, prepared, folder, look)
    return prepared


def _prepared(run: Run, folder: Path, watcher: Watcher) -> Prepared:
    """The data of the run. One that is resumed goes on with those it began with, whatever became of their source."""
    from heliostat.ingest import prepared_once

    prepared = prepared_once(run, folder, watcher.preparing)
    if run_folder.is_asked_to_stop(folder):
        raise Stopped("stopped before the first step.")
    watcher.training(folder)
    return prepared


def _train_here(run: Run, prepared: Path, folder: Path, look: Lookout) -> None:
    from heliostat.data.prepared import Prepared
    from heliostat.train.loop import fit
    from heliostat.train.worker import LocalWorker, set_threads

    set_threads(run.scaling.threads_per_worker or share_of_cores(1))

    def asked_to_stop() -> bool:
        look()
        return run_folder.is_asked_to_stop(folder)

    outcome = fit(run, Prepared.open(prepared), LocalWorker(asked_to_stop), folder)
    (folder / "outcome.json").write_text(json.dumps(outcome._asdict()), encoding="utf-8")


def _with_way_on(stopped: Stopped, folder: Path, wish: Wish) -> Stopped:
    message = f"{stopped} Continue with: heliostat train --resume {folder.name}"
    return Stopped(message, exit_code=wish.exit_code)


def _finished(folder: Path, prepared: Path) -> tuple[Path, int]:
    """The checkpoint to evaluate and to serve, and the updates that were made."""
    from heliostat.data.prepared import Prepared
    from heliostat.train.finish import finished_model

    path = folder / "outcome.json"
    if not path.exists():
        raise TrainError(f"the run '{folder.name}' ended without a result. See {folder / 'ray.log'}.")
    outcome = json.loads(path.read_text(encoding="utf-8"))
    best = checkpoint.step_folder(folder / "checkpoints", int(outcome["best"][0]))
    return finished_model(folder, best, Prepared.open(prepared)), int(outcome["step"])
