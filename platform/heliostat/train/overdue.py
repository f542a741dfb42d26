"""What workers tell of their end, and when they are waited for no longer: Ray waits for all of them, and they for one.

A worker that meets an error which a user can mend writes it down and ends in order, so that Ray does not start it
again. The others may then wait for it in an exchange, and Ray for them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from heliostat.data.fingerprint import write_whole
from heliostat.errors import HeliostatError, Stopped, TrainError
from heliostat.train.beats import Silence
from heliostat.train.run_folder import is_asked_to_stop

_NAME = "failure.json"
_OTHERS_S = 5.0
"""How long the others have to end by themselves after a worker has told its error: most errors meet all of them."""
_ANYBODY_S = 10.0
"""How long a wish to stop waits for a sign of life: while Ray looks for room nobody is there to be stopped."""


def tell(folder: Path, error: HeliostatError, rank: int) -> None:
    """Write down the reason why a worker ends. All of them stop together: then the first one says so."""
    if rank == 0 or not isinstance(error, Stopped):
        told = {"is_stopped": isinstance(error, Stopped), "message": str(error)}
        write_whole(folder / _NAME, json.dumps(told).encode())


def told(folder: Path) -> HeliostatError | None:
    """What a worker wrote down: Stopped, or its error as a TrainError; None where none did."""
    path = folder / _NAME
    if not path.exists():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    return Stopped(values["message"]) if values["is_stopped"] else TrainError(values["message"])


def forget_told(folder: Path) -> None:
    """What was written down is over."""
    (folder / _NAME).unlink(missing_ok=True)


class Overdue:
    """Called a few times a second while Ray trains: it ends a wait that would bring nothing."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self.clock = clock
        self._told_at: float | None = None
        self._silence: Silence | None = None

    def __call__(self) -> None:
        """Raise the error that a worker told when others still run a while later, and Stopped when nobody is left.

        Nobody is left where a wish to stop came and no worker gives a sign of life.
        """
        end = told(self.folder)
        if isinstance(end, TrainError):
            self._told_at = self.clock() if self._told_at is None else self._told_at
            if self.clock() - self._told_at > _OTHERS_S:
                raise end
        if is_asked_to_stop(self.folder):
            self._silence = self._silence or Silence(self.folder, self.clock)
            if self._silence.seconds() > _ANYBODY_S:
                raise end or Stopped("stopped; the newest whole checkpoint, if there is one, is kept.")
