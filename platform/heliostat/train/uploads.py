"""Brings whole checkpoints to the run's mirror in a thread of its own: training waits neither for it nor with it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

from heliostat import checkpoint
from heliostat.train.mirror import Mirror, reason

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
"""Between two attempts while the mirror cannot be reached."""
PATIENCE_S = 30.0
"""How long the end of a training waits for what is not there yet, once nothing goes through."""
_NOTE = "mirror.json"


class Uploads:
    """Makes the mirror hold what the folder holds, whenever it is woken.

    It compares and copies what is missing, so it needs no memory of what it did: after an outage, a restart or a
    `--resume` it goes on where the mirror stands.
    """

    def __init__(self, folder: Path, mirror: Mirror) -> None:
        self.folder = folder
        self.mirror = mirror
        self._wake = threading.Event()
        self._ends_at: float | None = None
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """A checkpoint was written, or removed."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True, name="mirror")
            self._thread.start()
        self._wake.set()

    def close(self) -> None:
        """Return when all is there, or when nothing went through for `PATIENCE_S`; `trouble` then says why."""
        if self._thread:
            self._ends_at = time.monotonic() + PATIENCE_S
            self._wake.set()
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        wait_s: float | None = None
        while True:
            self._wake.wait(wait_s)
            self._wake.clear()
            try:
                self._level()
                self._note("")
                wait_s = None
            except OSError as error:
                self._note(reason(error))
                wait_s = min(LONGEST_WAIT_S, 2 * (wait_s or FIRST_WAIT_S / 2))
            if self._ends_at is not None:
                left = self._ends_at - time.monotonic()
                if left <= 0 if wait_s else not self._wake.is_set():
                    return
                wait_s = min(wait_s, left) if wait_s else None

    def _level(self) -> None:
        """Copy what is missing, the newest first; then remove what is gone here and older than the newest there."""
        here, there = whole_here(self.folder), self.mirror.names()
        missing = [path for path in reversed(here) if checkpoint.MANIFEST not in there.get(path.name, ())]
        if missing:
            self.mirror.put_run(self.folder)
        for path in missing:
            self.mirror.put(path)
        kept = {path.name for path in whole_here(self.folder)}
        for name in sorted(set(there) - kept):
            if kept and name < max(kept):
                self.mirror.remove(name, there[name])

    def _note(self, error: str) -> None:
        path = self.folder / _NOTE
        if not error:
            path.unlink(missing_ok=True)
            return
        staged = path.with_suffix(".tmp")
        try:
            staged.write_text(json.dumps({"mirror": str(self.mirror), "error": error}), encoding="utf-8")
            staged.replace(path)
        except OSError:
            return  # a full disk: the training itself says so


def whole_here(folder: Path) -> list[Path]:
    """The checkpoints of a run's folder that have a manifest, the newest last."""
    paths = (folder / "checkpoints").glob("step-*")
    return sorted(path for path in paths if (path / checkpoint.MANIFEST).exists())


def trouble(folder: Path) -> str:
    """Why the mirror of the run in `folder` cannot be reached; empty while it can."""
    try:
        note = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return f"{note['mirror']} cannot be reached: {note['error']}."


def missing_there(folder: Path, mirror: Mirror) -> list[str]:
    """The names of the checkpoints that the folder holds and the mirror does not; all of them when it is silent."""
    here = [path.name for path in whole_here(folder)]
    try:
        there = mirror.whole()
    except OSError:
        return here
    return [name for name in here if name not in there]
