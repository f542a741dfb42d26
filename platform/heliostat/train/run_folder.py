"""The folder of one run: an id of its own, a lock against two at once, and a place to say stop."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from heliostat.component import closest
from heliostat.errors import RunError, TrainError, told
from heliostat.home import home
from heliostat.run import Run, check

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,100}")


def runs_folder() -> Path:
    """Where all runs lie."""
    return home() / "runs"


def create(run: Run, run_id: str | None = None) -> Path:
    """The folder of a new run. Raises TrainError when `run_id` is taken or no plain name, or nothing can be written."""
    run_id = run_id or f"{run.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    if not _ID.fullmatch(run_id):
        raise TrainError(f"'{run_id}' is no run id: lower-case letters, digits, '.', '_' and '-'.")
    folder = runs_folder() / run_id
    try:
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(run.dump(), indent=1, ensure_ascii=False), encoding="utf-8")
    except FileExistsError:
        raise TrainError(
            f"the run '{run_id}' exists. Continue it with --resume {run_id}, or choose another id."
        ) from None
    except OSError as error:
        raise TrainError(told(error, folder)) from error
    return folder


def reopen(run_id: str, scaling: Mapping[str, Any] | None = None) -> tuple[Run, Path]:
    """The run of an id and its folder, to be continued, on other workers if `scaling` says so.

    Raises TrainError naming the run that was probably meant, and RunError when `scaling` breaks a rule.
    """
    folder = runs_folder() / run_id
    if not _ID.fullmatch(run_id) or not (folder / "run.json").is_file():
        there = sorted(path.parent.name for path in runs_folder().glob("*/run.json"))
        guess = closest(run_id, there)
        raise TrainError(f"there is no run '{run_id}'. " + (f"Did you mean '{guess}'?" if guess else "There are none."))
    try:
        run = check(json.loads((folder / "run.json").read_text(encoding="utf-8")), source=str(folder / "run.json"))
    except (ValueError, RunError) as error:
        raise TrainError(f"the run '{run_id}' cannot be read: {error}") from error
    if scaling:
        values = run.dump()
        values["scaling"] |= scaling
        if values["scaling"]["num_workers"] == 1 and "strategy" not in scaling:
            values["scaling"]["strategy"] = "ddp"  # nothing is shared
        run = check(values)
    return run, folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run alone; what was wished of whoever had it before is over.

    Raises TrainError when another process has it. A killed process gives it back.
    """
    with (folder / "lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise TrainError(f"the run '{folder.name}' is in use (process {file.read().strip() or '?'}).") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        for wish in ("stop", "move"):
            (folder / wish).unlink(missing_ok=True)
        yield


def ask_to_stop(folder: Path) -> None:
    """Ask all workers of the run to save and end; they look at each step."""
    (folder / "stop").touch()


def is_asked_to_stop(folder: Path) -> bool:
    """Whether somebody asked the run to stop."""
    return (folder / "stop").exists()


def ask_to_move(folder: Path) -> None:
    """Ask all workers of the run to save and end, as they are to start again elsewhere."""
    (folder / "move").touch()


def is_asked_to_move(folder: Path) -> bool:
    """Whether the workers are to start again elsewhere."""
    return (folder / "move").exists()


def has_moved(folder: Path) -> bool:
    """Whether workers ended to start again elsewhere, and for no other reason; the wish is over with that."""
    was_asked = is_asked_to_move(folder)
    (folder / "move").unlink(missing_ok=True)
    return was_asked and not is_asked_to_stop(folder)
