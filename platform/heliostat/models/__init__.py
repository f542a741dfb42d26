"""The model store: versions that never change, aliases that move, and where each model came from."""

from __future__ import annotations

from heliostat.models.store import ModelStore
from heliostat.models.version import ModelVersion, Reference, Score

__all__ = ["ModelStore", "ModelVersion", "Reference", "Score"]
