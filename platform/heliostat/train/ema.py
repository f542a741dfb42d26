"""A moving average of the weights: smoother than the last step's, and often better (Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from heliostat.train.sharded import local


class MovingAverage:
    """Keeps average = decay * average + (1 - decay) * weights; the decay rises to its value over the first updates."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {name: weights.clone() for name, weights in _moving(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take the weights after `step` updates into the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.values()), list(_moving(model).values()), 1 - decay)

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """The model holds the average inside this context and its own weights after it."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for name, weights in _moving(model).items():
            held = weights.clone()
            weights.copy_(self.average[name])
            self.average[name].copy_(held)

    def load(self, model: nn.Module) -> None:
        """Take over the weights that the model holds, which are an average that was kept."""
        for name, weights in _moving(model).items():
            self.average[name].copy_(weights)


def _moving(model: nn.Module) -> dict[str, Tensor]:
    """The weights that training changes; of sharded ones, this worker's part."""
    return {name: local(p.detach()) for name, p in model.named_parameters() if p.requires_grad}
