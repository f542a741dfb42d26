"""What a sweep says of itself, in words: what a population did, and that there is no room."""

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


def no_room(number: int, why: str, sweep_id: str) -> str:
    """That a trial could not be written because the disk takes no more: no fault of the trial."""
    return (
        f"trial {number} could not be written: {why}. Trials under way go on from their last checkpoints. Make room, "
        f"then continue with: heliostat tune --resume {sweep_id}"
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
