"""Answers that a person found wrong, kept as labelled examples: a JSON Lines file that a run can read as its source."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from heliostat.component import Row
from heliostat.errors import ServeError
from heliostat.home import home

MOST_BYTES = 64 << 20
"""Of the corrections to one model: a page that is open to others fills no disk."""


def corrections_file(model: str) -> Path:
    """Where the corrections to a model lie."""
    return home() / "labels" / f"{model}.jsonl"


def keep_correction(model: str, version: int, record: Mapping[str, object], targets: Row, predicted: Row) -> Path:
    """Append one labelled example: the record with its right targets, and what the model had answered.

    Raises ServeError when MOST_BYTES of them lie there.
    """
    path = corrections_file(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"predicted": predicted, "model": f"{model}:{version}", "at": datetime.now(UTC).isoformat()}
    line = json.dumps({**record, **targets, "_correction": about}, ensure_ascii=False) + "\n"
    if path.exists() and path.stat().st_size + len(line) > MOST_BYTES:
        raise ServeError(
            f"{path.name} is full: {MOST_BYTES >> 20} MB of corrections. Train on them and move them away."
        )
    # One write call on a file opened for appending: lines of several demos never mix. Only the owner may read them.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode("utf-8"))
    finally:
        os.close(descriptor)
    return path
