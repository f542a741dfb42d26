"""The errors that a user can mend.

Each prints as one sentence without a traceback: what must hold, what was found, and the way out.

    HeliostatError
    ├── RunError          a run file or an override breaks a rule; carries every Problem at once
    ├── PluginError       a plugin or a component cannot be found or does not load
    ├── DataError         a source cannot be read, or its records do not fit the run
    │   └── RejectedRecord   one record that the adapter refuses; it is recorded and the rest goes on
    ├── CheckpointError   a checkpoint is missing, incomplete or damaged
    ├── TrainError        a training cannot start or go on
    ├── PredictError      an example breaks a rule of the record that a model takes; carries every problem, no value
    ├── StoreError        a model, version or alias does not exist, or may not be changed
    ├── ServeError        a deployment cannot start or cannot answer
    ├── ClusterError      a cluster cannot be reached, or refuses a job
    └── Stopped           somebody asked the run to stop; a checkpoint is kept
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class HeliostatError(Exception):
    """Something that a user can mend; the command line prints it without a traceback."""

    exit_code = 2
    """What the command line exits with."""


def told(error: OSError, path: object = None) -> str:
    """What the system says of a file (that of the error, or else `path`), and the way out, as a sentence or two."""
    where = error.filename if error.filename is not None else path
    why = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    return f"{where}: {why}. {_WAYS_OUT.get(error.errno or 0, 'Mend that, and try again.')}"


_FULL = "Make room there. If it lies under HELIOSTAT_HOME, that may name a folder on another disk."
_REFUSED = "Get the right to it from its owner. If it lies under HELIOSTAT_HOME, that may name a folder of your own."
_WAYS_OUT = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EACCES: _REFUSED,
    errno.EPERM: _REFUSED,
    errno.EROFS: _REFUSED,
    errno.ENOENT: "Mend the path, or put the file back.",
    errno.ENOTDIR: "Name a folder where this is a file.",
    errno.EISDIR: "Name a file where this is a folder.",
    errno.EEXIST: "Move it out of the way, or choose another name.",
}


class Problem(NamedTuple):
    """One mistake: where it is, which rule it breaks and how to mend it."""

    key: str
    rule: str

    def __str__(self) -> str:
        return f"{self.key}: {self.rule}" if self.key else self.rule


class RunError(HeliostatError):
    """A run file or an override breaks a rule. `problems` holds every mistake that was found."""

    def __init__(self, problems: Sequence[Problem], *, source: str = "") -> None:
        self.problems = tuple(problems)
        self.source = source
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems]
        if self.source:
            mistakes = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
            lines.insert(0, f"{self.source}: {mistakes}")
        return "\n".join(lines)


class PluginError(HeliostatError):
    """A plugin or a component cannot be found, or its code does not load."""


class DataError(HeliostatError):
    """A source cannot be read, or its records do not fit the run."""


class RejectedRecord(DataError):
    """Raised by an adapter for one record it refuses; the reason goes to `rejected.jsonl`."""

    def __init__(self, reason: str = "", num_records: int = 1) -> None:
        super().__init__(reason)
        self.num_records = num_records
        """Records that are lost with it: several, where what is read as one took others in."""


class CheckpointError(HeliostatError):
    """A checkpoint is missing, incomplete or damaged."""


class TrainError(HeliostatError):
    """A training cannot start or cannot go on."""


@dataclass(frozen=True)
class ExampleProblem:
    """One field of one example that cannot be answered. It never holds the value: a request may be private."""

    index: int
    """The place of the example in the list that was given, from 0."""
    field: str
    """Dotted; empty when the example as a whole is meant."""
    rule: str

    def __str__(self) -> str:
        return (
            f"example {self.index}: {self.field}: {self.rule}" if self.field else f"example {self.index}: {self.rule}"
        )


class PredictError(HeliostatError):
    """An example breaks a rule of the record that the model takes. `problems` holds every one that was found."""

    SHOWN = 5
    """Problems that the message spells out."""

    def __init__(self, problems: Sequence[ExampleProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[: self.SHOWN]]
        if len(self.problems) > self.SHOWN:
            lines.append(f"and {len(self.problems) - self.SHOWN} more.")
        return "\n".join(lines)


class StoreError(HeliostatError):
    """A model, version or alias does not exist, or may not be changed."""


class ServeError(HeliostatError):
    """A deployment cannot start, or a request to it cannot be answered."""


class ClusterError(HeliostatError):
    """A cluster cannot be reached, or does not take a job."""


class Stopped(HeliostatError):
    """Somebody asked the run to stop (Ctrl-C, SIGTERM); its newest checkpoint is kept."""

    def __init__(self, message: str, *, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code
