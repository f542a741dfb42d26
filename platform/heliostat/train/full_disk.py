"""A disk that takes no more ends a training with a sentence."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heliostat.errors import TrainError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def full_disk_told(folder: Path) -> Iterator[None]:
    """Raise TrainError for an OSError inside that says that the disk, or what we may use of it, is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        where = f" while {error.filename} was written" if error.filename else ""
        raise TrainError(
            f"{error.strerror}{where}. The last whole checkpoint is kept. Make room, then continue with "
            f"--resume {folder.name}."
        ) from error
