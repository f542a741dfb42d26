"""Decisions apart from doing: after a validation, whether to go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Validation(NamedTuple):
    """One validation: after which step, and how good (greater is better)."""

    step: int
    score: float


class Continue(NamedTuple):
    """Go on training."""


class Stop(NamedTuple):
    """End the training."""

    reason: str


def best(history: Sequence[Validation]) -> Validation | None:
    """The validation with the greatest score; the earliest of equals."""
    return max(history, key=lambda validation: (validation.score, -validation.step), default=None)


def after_validation(history: Sequence[Validation], patience: int | None) -> Continue | Stop:
    """Stop when the last `patience` validations brought nothing better than what came before them."""
    leader = best(history)
    if patience is None or leader is None:
        return Continue()
    since = sum(validation.step > leader.step for validation in history)
    if since >= patience:
        return Stop(f"no better validation for {since} in a row; the best was {leader.score:.4f} at step {leader.step}")
    return Continue()
