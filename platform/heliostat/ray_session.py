"""A quiet Ray to work on: what Ray says goes to a log file, and a Ray of our own ends with us."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def ray_session(log: Path) -> Iterator[None]:
    """The Ray we are connected to, the one of `RAY_ADDRESS`, or one of our own that ends with this context.

    What Ray says goes to `log`, not to the screen.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with stderr_to(log):
        ray.init(
            address=os.environ.get("RAY_ADDRESS"),
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=None if os.environ.get("RAY_ADDRESS") else False,
        )
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def stderr_to(log: Path) -> Iterator[None]:
    """Send this process's standard error, Ray's C++ side included, to a file."""
    saved = os.dup(2)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
