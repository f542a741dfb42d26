"""Memory of the host that a checkpoint's tensors are copied into, so that training goes on while they are written."""

from __future__ import annotations

import torch
from torch import Tensor


class Staging:
    """Keeps its memory from one checkpoint to the next: to touch fresh pages takes longer than to copy.

    A copy is good until the next one of the same name is made.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def copy(self, name: str, tensor: Tensor) -> Tensor:
        """A copy of a tensor of any device."""
        kept = self._kept.get(name)
        if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
            kept = self._kept[name] = torch.empty(tensor.shape, dtype=tensor.dtype)
        return kept.copy_(tensor)
