"""What a check found."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """How bad it is."""

    RIGHT = "right"
    NOTE = "note"
    """Works, and may surprise."""
    WRONG = "wrong"
    """Must be mended."""


class Finding(NamedTuple):
    """What a check found."""

    name: str
    state: State
    found: str
    mend: str = ""
    """What to do; empty where nothing is to be done."""
