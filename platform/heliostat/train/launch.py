"""A run, here or on Ray: prepare the data once, start the workers, hand back the best checkpoint."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from heliostat import checkpoint
from heliostat.errors import Stopped, TrainError
from heliostat.home import home
from heliostat.run import Run, pinned
from heliostat.train import run_folder
from heliostat.train.ancestry import ancestors_of, note_ancestors
from heliostat.train.full_disk import full_disk_told
from heliostat.train.lookout import Lookout
from heliostat.train.mirror import Mirror, bring, claim
from heliostat.train.recovery import recover
from heliostat.train.signals import Wish, stop_signals
from heliostat.train.tracking import require_trackers
from heliostat.train.uploads import missing_there, trouble

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
    run: Run | None, *, resume: str | None = None, run_id: str | None = None, watcher: Watcher | None = None
) -> TrainResult:
    """Train a run, or go on with the run of id `resume`, which may be its address in a mirror: `s3://bucket/runs/ID`.

    One worker trains in this process; several, or a cluster named by `RAY_ADDRESS`, train on Ray. Raises TrainError,
    DataError, CheckpointError, RunError (a pretrained model that is not there), and after Ctrl-C or SIGTERM Stopped
    (exit code 130 or 143), with a checkpoint kept.
    """
    started = time.monotonic()
    watcher = watcher or Watcher()
    if resume:
        run, folder = run_folder.reopen(bring(resume, run_folder.runs_folder()) if "://" in resume else resume)
    elif run is None:
        raise TrainError("there is nothing to train: name a run, or continue one with --resume ID.")
    else:
        require_trackers(run.train.trackers)
        run = pinned(run)
        ancestors = ancestors_of(run)
        folder = run_folder.create(run, run_id)
        note_ancestors(folder, ancestors)
    with (
        run_folder.locked(folder),
        stop_signals(lambda: run_folder.ask_to_stop(folder)) as wish,
        full_disk_told(folder),
    ):
        _ready(run, folder, watcher, is_new=not resume)
        try:
            prepared = _train(run, folder, watcher)
            model, steps = _finished(folder, prepared)
        except Stopped as stopped:
            raise _with_way_on(stopped, folder, wish) from None
    seconds = time.monotonic() - started
    return TrainResult(folder.name, folder, model, prepared, steps, seconds, _not_mirrored(run, folder, watcher))


def _mirror(run: Run, folder: Path) -> Mirror | None:
    return Mirror(run.train.mirror, folder.name) if run.train.mirror else None


def _ready(run: Run, folder: Path, watcher: Watcher, *, is_new: bool) -> None:
    """What is done before anything costs time: a new run is written down in its mirror, an old one cleared up."""
    mirror = _mirror(run, folder)
    if is_new:
        if mirror:
            try:
                claim(mirror, folder)
            except TrainError:
                shutil.rmtree(folder)  # or else the id would be taken
                raise
        return
    found = recover(folder, mirror)
    for aside, why in found.damaged.items():
        watcher.warn(f"{why} It lies in {aside} now and is passed over.")
    if found.checkpoint is None:
        watcher.warn(f"the run '{folder.name}' has no finished checkpoint: it starts from its first step.")


def _not_mirrored(run: Run, folder: Path, watcher: Watcher) -> tuple[str, ...]:
    """Say which checkpoints the mirror lacks at the end, if it does."""
    mirror, words = _mirror(run, folder), trouble(folder)
    if mirror is None or not words:
        return ()
    missing = tuple(missing_there(folder, mirror))
    watcher.warn(
        f"{words} Not there: {', '.join(missing)}. They lie in {folder / 'checkpoints'}; send them later with "
        f"heliostat train --resume {folder.name}"
    )
    return missing


def _train(run: Run, folder: Path, watcher: Watcher) -> Path:
    prepared = _prepared(run, folder, watcher)
    if run_folder.is_asked_to_stop(folder):
        raise Stopped("stopped before the first step.")
    look = Lookout(watcher, folder, timeout_s=run.scaling.timeout_s)
    look()
    if run.scaling.num_workers == 1:
        _train_here(run, prepared.folder, folder, look)
    else:
        from heliostat.ray_session import ray_session
        from heliostat.train.on_ray import train_on_ray

        with ray_session(folder / "ray.log"):
            train_on_ray(run, prepared.folder, folder, look)
    return prepared.folder


def _prepared(run: Run, folder: Path, watcher: Watcher) -> Prepared:
    """The data of the run. One that is resumed goes on with those it began with, whatever became of their source."""
    from heliostat.data.prepared import Prepared
    from heliostat.ingest import prepare

    note = folder / "prepared"
    if note.is_file():
        place = home() / "prepared" / note.read_text(encoding="utf-8").strip()
        if Prepared.is_complete(place):
            return Prepared.open(place)
    prepared = prepare(run, on_progress=watcher.preparing)
    note.write_text(prepared.key, encoding="utf-8")
    return prepared


def _train_here(run: Run, prepared: Path, folder: Path, look: Lookout) -> None:
    from heliostat.data.prepared import Prepared
    from heliostat.train.loop import fit
    from heliostat.train.worker import LocalWorker, set_threads, share_of_cores

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
