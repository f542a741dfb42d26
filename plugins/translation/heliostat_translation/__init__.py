"""Translation: a text in, the same in another language out."""

from __future__ import annotations

from heliostat.plugin import Registry
from heliostat_translation.pairs import Pairs
from heliostat_translation.translate import Translate


def register(registry: Registry) -> None:
    """Register the adapter and the head."""
    registry.add("pairs", Pairs)
    registry.add("translate", Translate)
