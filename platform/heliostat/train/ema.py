"""A moving average of the weights: smoother than the last step's, and often better (Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Keeps average = decay * average + (1 - decay) * weights; the decay rises to its value over the first updates."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take the weights after `step` updates into the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = [parameter.detach() for _, parameter in model.named_parameters()]
        torch._foreach_lerp_(list(self.average.values()), weights, 1 - decay)

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
        for name, parameter in model.named_parameters():
            held = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(held)

    def load(self, average: dict[str, Tensor]) -> None:
        """Put back an average that was kept."""
        for name, tensor in self.average.items():
            tensor.copy_(average[name])
