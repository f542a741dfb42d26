"""A worker of torch's process group that gives signs of life."""

from __future__ import annotations

from typing import Any

from torch import nn

from heliostat.train.beats import Beats
from heliostat.train.worker import TorchWorker


class WatchedWorker(TorchWorker):
    """A TorchWorker whose `beats` say how far it came: into the update, and through its forward pass."""

    beats: Beats

    def wrap(self, model: Any) -> nn.Module:
        """As TorchWorker does; a forward pass then moves the beats on."""
        wrapped = super().wrap(model)
        wrapped.register_forward_hook(lambda *_: self.beats.end_forward())
        return wrapped

    def should_stop(self) -> bool:
        """As TorchWorker does. The loop asks once an update, before the workers meet."""
        self.beats.begin_update()
        return super().should_stop()
