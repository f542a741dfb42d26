"""The built-in plugin `core`: encoders, heads, adapters and baselines that belong to no domain."""

from __future__ import annotations

from heliostat.adapters.columns import Columns
from heliostat.baselines.majority import MajorityBaseline
from heliostat.baselines.tfidf import TfidfBaseline
from heliostat.encoders.text import TextEncoder
from heliostat.heads.classification import Classification
from heliostat.plugin import Registry


def register(registry: Registry) -> None:
    """Register what comes with the platform, by the same door as any plugin."""
    registry.add("columns", Columns)
    registry.add("text", TextEncoder)
    registry.add("classification", Classification)
    registry.add("tfidf", TfidfBaseline)
    registry.add("majority", MajorityBaseline)
