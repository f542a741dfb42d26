"""Where Heliostat keeps what it makes: prepared data, runs, models, fetched archives, labels."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """`$HELIOSTAT_HOME`, or `~/.heliostat`. On a cluster: a folder that all nodes share."""
    return Path(os.environ.get("HELIOSTAT_HOME") or Path.home() / ".heliostat").expanduser().absolute()
