"""How the learning rate moves: a pure function of how much of the training is done."""

from __future__ import annotations

import math

from heliostat.run import TrainSettings

WSD_DECAY = 0.2
"""Share of the training over which `wsd` falls, where the run does not say."""


def lr_factor(progress: float, warmup: float, schedule: str, decay: float | None = None) -> float:
    """The share of the peak learning rate at `progress` (0 at the first update, 1 after the last).

    Rises linearly over the first `warmup` of the training; then stays (constant), falls linearly to 0, falls as
    (1 + cos(pi t)) / 2 (Loshchilov and Hutter 2017, without restarts), or stays until the last `decay` of the training
    and falls there as 1 - sqrt(t) (wsd: Hu et al. 2024, with the form that Hägele et al. 2024 found best).
    """
    if progress < warmup:
        return progress / warmup
    if schedule == "constant":
        return 1.0
    if schedule == "wsd":
        fall = decay or WSD_DECAY
        return 1.0 - math.sqrt(min(1.0, max(0.0, (progress - (1.0 - fall)) / fall)))
    rest = min(1.0, (progress - warmup) / max(1e-12, 1.0 - warmup))
    return 1.0 - rest if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * rest))


def lr_at(progress: float, settings: TrainSettings) -> float:
    """The learning rate of the update at `progress`."""
    return settings.lr * lr_factor(progress, settings.warmup, settings.schedule, settings.decay)
