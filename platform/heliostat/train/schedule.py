"""How the learning rate moves: a pure function of how much of the training is done."""

from __future__ import annotations

import math
from typing import Literal


def lr_factor(progress: float, warmup: float, schedule: Literal["constant", "linear", "cosine"]) -> float:
    """The share of the peak learning rate at `progress` (0 at the first update, 1 after the last).

    Rises linearly over the first `warmup` of the training; then stays, falls linearly to 0, or falls as
    (1 + cos(pi t)) / 2 (Loshchilov and Hutter 2017, without restarts).
    """
    if progress < warmup:
        return progress / warmup
    rest = (progress - warmup) / max(1e-12, 1.0 - warmup)
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return max(0.0, 1.0 - rest)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, rest)))
