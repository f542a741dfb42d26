"""Before a run goes on: what a process that died left behind is cleared away, and the place to go on from is found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from heliostat import checkpoint
from heliostat.errors import CheckpointError, TrainError
from heliostat.run import Run
from heliostat.train.mirror import Mirror, claim, reason
from heliostat.train.uploads import missing_there, trouble

DAMAGED = "damaged-"
"""What the name of a checkpoint begins with that was whole once and is no more."""


class Recovered(NamedTuple):
    """Where a run goes on, and what was in the way."""

    checkpoint: Path | None
    """The newest whole checkpoint; None where none was ever finished, so that the run starts over."""
    damaged: dict[Path, str]
    """Checkpoints that were passed over, where they lie now, and what is wrong with each."""


def ready(run: Run, folder: Path, warn: Callable[[str], None], *, is_new: bool) -> None:
    """What is done before anything costs time: a new run is written down in its mirror, an old one cleared up.

    Raises TrainError when the mirror refuses a new run, CheckpointError when an old one has nothing to go on from.
    """
    mirror = Mirror(run.train.mirror, folder.name) if run.train.mirror else None
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
        warn(f"{why} It lies in {aside} now and is passed over.")
    if found.checkpoint is None:
        warn(f"the run '{folder.name}' has no finished checkpoint: it starts from its first step.")


def not_mirrored(run: Run, folder: Path, warn: Callable[[str], None]) -> tuple[str, ...]:
    """The checkpoints that the mirror lacks at the end of a training, after a warning that names them."""
    words = trouble(folder)
    if run.train.mirror is None or not words:
        return ()
    missing = tuple(missing_there(folder, Mirror(run.train.mirror, folder.name)))
    warn(
        f"{words} Not there: {', '.join(missing)}. They lie in {folder / 'checkpoints'}; send them later with "
        f"heliostat train --resume {folder.name}"
    )
    return missing


def recover(folder: Path, mirror: Mirror | None = None) -> Recovered:
    """Ready the folder of a run that nobody trains in. Raises CheckpointError when no checkpoint is whole any more.

    Half-written checkpoints and what Ray left are removed. A damaged one is set aside as `damaged-step-...`: it no
    longer counts among those that are kept. Whole ones that only the mirror has are fetched; a mirror that cannot be
    reached matters only where nothing is left here.
    """
    clear(folder)
    path, damaged = _newest(folder / "checkpoints")
    silent = ""
    if mirror:
        aside = {_set_aside(each): why for each, why in damaged.items()}
        try:
            mirror.fetch(folder / "checkpoints")
        except OSError as error:
            silent = f"{mirror} cannot be reached: {reason(error)}. "
        path, more = _newest(folder / "checkpoints")
        damaged = aside | more
    if path is None and (damaged or silent):
        raise CheckpointError(_nothing_left(folder, damaged, silent))
    return Recovered(path, {_set_aside(each): why for each, why in damaged.items()})


def _newest(checkpoints: Path) -> tuple[Path | None, dict[Path, str]]:
    """The newest whole checkpoint, and what is wrong with those that are newer."""
    damaged: dict[Path, str] = {}
    for path in sorted(checkpoints.glob("step-*"), reverse=True):
        try:
            checkpoint.verify(path)
        except CheckpointError as error:
            damaged[path] = str(error)
            continue
        return path, damaged
    return None, damaged


def _nothing_left(folder: Path, damaged: dict[Path, str], silent: str) -> str:
    checkpoints = folder / "checkpoints"
    return (
        f"the run '{folder.name}' cannot go on: none of its checkpoints is whole. {next(iter(damaged.values()), '')} "
        f"{silent}Put a copy of one back into {checkpoints}, or remove that folder to train from the start."
    )


def clear(folder: Path) -> None:
    """Remove what interrupted writers left: checkpoints without a manifest, staged files, folders of dead Rays."""
    checkpoints = folder / "checkpoints"
    halves = [path for path in checkpoints.glob("step-*") if not (path / checkpoint.MANIFEST).exists()]
    for path in [*halves, *checkpoints.glob(".fetching-*"), *folder.glob("ray-*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
    for path in [*checkpoints.glob(f"*/.{checkpoint.MANIFEST}.*"), *(folder / "beats").glob("*")]:
        path.unlink(missing_ok=True)


def _set_aside(path: Path) -> Path:
    if path.name.startswith(DAMAGED):
        return path
    aside = path.with_name(DAMAGED + path.name)
    shutil.rmtree(aside, ignore_errors=True)
    return path.rename(aside)
