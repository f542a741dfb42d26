"""Heliostat: train, evaluate, serve and demonstrate transformers on Ray, one domain a package.

import heliostat
heliostat.load("sentiment@champion").predict([{"text": "Fits beautifully."}])
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# Read by OpenMP when torch is first imported. Its threads spin while they wait for each other: for milliseconds, where
# nobody says how long, and a step beside another busy process then takes nearly five times as long instead of two and
# a half. Without any spinning it takes a tenth longer on a machine of its own. This is some tens of microseconds.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")

__version__ = "0.1.0"

if TYPE_CHECKING:
    from heliostat.predict import load

__all__ = ["__version__", "load"]

_PUBLIC = {"load": "heliostat.predict"}
"""Name -> the room it comes from, imported when it is asked for: importing heliostat stays quick."""


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        from importlib import import_module

        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'heliostat' has no attribute '{name}'")
