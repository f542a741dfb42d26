"""A disk that takes no more ends a training with a sentence."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heliostat.errors import DataError, TrainError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NUMBER = re.compile(r"\[Errno (\d+)\]|os error (\d+)")
"""How shutil, which copies on after an error and collects them, and safetensors say it: in words alone."""


@contextmanager
def full_disk_told(folder: Path) -> Iterator[None]:
    """Raise TrainError for an error inside that says that the disk, or what we may use of it, is full."""
    try:
        yield
    except DataError as error:
        if why_full(error):
            raise TrainError(f"{error} Then continue with --resume {folder.name}.") from error
        raise
    except OSError as error:
        why = why_full(error)
        if not why:
            raise
        where = f" while {error.filename} was written" if error.filename else ""
        raise TrainError(
            f"{error.strerror or why}{where}. The last whole checkpoint is kept. Make room, then continue with "
            f"--resume {folder.name}."
        ) from error


def why_full(error: BaseException | None) -> str:
    """What the system says of a disk that takes no more, where `error` came of that; else empty."""
    while error is not None:
        said = {int(first or second) for first, second in _NUMBER.findall(str(error))}
        if isinstance(error, OSError) and error.errno is not None:
            said = {error.errno}
        if full := said & _FULL:
            return os.strerror(min(full))
        error = error.__cause__
    return ""
