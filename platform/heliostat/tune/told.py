"""What a population did, in words."""

from __future__ import annotations

from typing import Any

from heliostat.tune.records import Exploit


def told(exploit: Exploit) -> str:
    """An exploit in a sentence; the scores are left out, as their sign depends on the metric."""
    return f"trial {exploit.member} goes on from trial {exploit.donor} at step {exploit.step}: {changes(exploit)}"


def changes(exploit: Exploit) -> str:
    """The member's settings before and after, where they differ."""
    changed = [f"{key} {_short(old)} → {_short(new)}" for key, (old, new) in exploit.changed.items()]
    return ", ".join(changed) or "no setting changed"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
