"""Prepare once: source -> examples -> splits -> fitted components -> shards, in a folder named by its content.

What costs time, reading and encoding, is behind `Engine`: this process here, Ray Data in `heliostat.ingest`. The rest
is one pass each over files on disk and is the same whoever drives it.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heliostat.data.engine import Engine, Local, Made, Progress
from heliostat.data.key import data_key
from heliostat.data.prepared import Prepared, seal
from heliostat.data.rejects import Tally, check_rejects
from heliostat.data.sources import open_source
from heliostat.data.stages import Preparation
from heliostat.errors import DataError, told
from heliostat.home import home
from heliostat.run import Run, pinned

__all__ = ["Engine", "Local", "Made", "Progress", "prepare"]

_ABANDONED_S = 24 * 3600
"""Age after which the folder of a builder that was killed is removed."""


def prepare(run: Run, *, on_progress: Progress | None = None, engine: Engine | None = None) -> Prepared:
    """The prepared data of a run: made when they are not there, else opened.

    Raises DataError when the source cannot be read, the data cannot be written, a column is missing, too many records
    are rejected or a split is empty. Several processes may prepare the same data at once: each works in a folder of its
    own, and one stays.
    """
    run = pinned(run)  # an alias may move; what is prepared with it may not
    try:
        return _prepare(run, on_progress or (lambda *_: None), engine or Local())
    except OSError as error:
        if error.errno is None:  # libraries say so much by it
            raise
        raise DataError(told(error, home())) from error


def _prepare(run: Run, on_progress: Progress, engine: Engine) -> Prepared:
    source = open_source(run.data.source)
    key = data_key(run, source)
    folder = home() / "prepared" / key
    if Prepared.is_complete(folder):
        return _found(folder, run)
    with _workplace(folder) as work:
        kept = home() / "rejected" / f"{key}.jsonl"
        with _kept(work / "rejected.jsonl", kept):
            counts = Preparation(run, source, work, on_progress, engine, kept).build()
        seal(work, key, {str(split): count for split, count in counts.items()})
        return _publish(work, folder)


def _found(folder: Path, run: Run) -> Prepared:
    """Data that are there. They may have been made by a run that allows more rejects than this one."""
    prepared = Prepared.open(folder)
    stats = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
    lost = stats["rejected"]
    tally = Tally(stats["records"], stats["examples"], lost["records"], lost["examples"], Counter(stats["reasons"]))
    check_rejects(tally, run.data.max_rejected, folder / "rejected.jsonl")
    return prepared


@contextmanager
def _kept(log: Path, path: Path) -> Iterator[None]:
    """Copy the list of rejects out of a folder that goes away when they stop the run."""
    try:
        yield
    except DataError:
        if log.is_file() and log.stat().st_size:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log, path)
        raise


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A folder beside the final one, removed when the work fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for old in folder.parent.glob(".building-*"):
        if time.time() - old.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(old, ignore_errors=True)
    work = folder.with_name(f".building-{folder.name[:8]}-{secrets.token_hex(4)}")
    work.mkdir()  # with the rights of any new folder: others who share the home read it
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _publish(work: Path, folder: Path) -> Prepared:
    """Give a complete folder its name. When another builder was faster, theirs stays: it holds the same."""
    if folder.exists() and not Prepared.is_complete(folder):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        work.rename(folder)
    except OSError:
        if not Prepared.is_complete(folder):
            raise
    return Prepared.open(folder)
