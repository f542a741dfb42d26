"""Recommendation: what somebody bought in, what follows out."""

from __future__ import annotations

from heliostat.plugin import Registry
from heliostat_recommendation.baskets import Baskets


def register(registry: Registry) -> None:
    """Register the head; histories and the encoder are the platform's own."""
    registry.add("baskets", Baskets)
