"""Decisions apart from doing: after a validation, whether to go on; after a gradient that is not finite, how."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple


class Validation(NamedTuple):
    """One validation: after which step, and how good (greater is better)."""

    step: int
    score: float


class Judged(NamedTuple):
    """A validation as it is told to those who compare trainings."""

    validation: Validation
    progress: float
    """Share of the training that is done."""
    epochs: float
    """Passes over the train split that are done."""
    row: Mapping[str, float]
    """What the journal was told."""


class Continue(NamedTuple):
    """Go on training."""


class Stop(NamedTuple):
    """End the training."""

    reason: str
    is_kept: bool = True
    """Whether the weights as they are get a checkpoint first; False for a training that others have given up."""


class LeaveOut(NamedTuple):
    """Go on without this update."""


class RollBack(NamedTuple):
    """Go back to the last checkpoint, and leave out every batch from there up to this one."""


MAX_LEFT_OUT = 20
"""Updates in a row that may be left out: after that the weights themselves are broken, and no batch will mend them."""
MAX_ROLLBACKS = 3
"""Rollbacks to one checkpoint: after that it is not the batches."""


def rank(score: float) -> float:
    """What scores are compared by: one that is no number is the worst of all."""
    return -math.inf if math.isnan(score) else score


def best(history: Sequence[Validation]) -> Validation | None:
    """The validation with the greatest score; the earliest of equals."""
    return max(history, key=lambda validation: (rank(validation.score), -validation.step), default=None)


def after_validation(history: Sequence[Validation], patience: int | None) -> Continue | Stop:
    """Stop when the last `patience` validations brought nothing better than what came before them."""
    leader = best(history)
    if patience is None or leader is None:
        return Continue()
    since = sum(validation.step > leader.step for validation in history)
    if since >= patience:
        return Stop(f"no better validation for {since} in a row; the best was {leader.score:.4f} at step {leader.step}")
    return Continue()


def after_nan(on_nan: str, left_out: Collection[int], step: int, rollbacks: int) -> LeaveOut | RollBack | Stop:
    """What to do about a gradient that is not finite in the update `step`.

    `left_out` holds the updates that were left out before, `rollbacks` counts those to the newest checkpoint. Going
    back a way and leaving out the batches that led there is what Chowdhery et al. 2022 (PaLM) did: every step is a pure
    function here, so the batch alone left out would be a mere `skip`.
    """
    if on_nan == "rollback" and rollbacks < MAX_ROLLBACKS:
        return RollBack()
    if on_nan == "rollback":
        return Stop(f"went back {rollbacks} times to one checkpoint")
    if on_nan == "skip" and not all(earlier in left_out for earlier in range(step - MAX_LEFT_OUT + 1, step)):
        return LeaveOut()
    return Stop(f"left out {MAX_LEFT_OUT} updates in a row" if on_nan == "skip" else "")
