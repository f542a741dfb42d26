"""x."""
from __future__ import annotations
def register(registry: object) -> None:
    """x."""
