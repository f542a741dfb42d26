"""Dropout with masks that are cheap to draw on CPUs, where torch's own, drawn number by number, takes a quarter of a step.

A mask is made of 16 random bits a value, so a rate is rounded to 1/65,536. Its seed comes from torch's generator: a
forward pass that is made again from the same state of that generator, as activation checkpointing does, drops the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STEPS = 65_536
_INTEGERS = {2: (torch.int16, np.int16), 4: (torch.int32, np.int32), 8: (torch.int64, np.int64)}
"""The integers as wide as a number of so many bytes, by which its bits are kept or cleared."""


class Dropout(nn.Dropout):
    """nn.Dropout with the masks of this module."""

    def forward(self, input: Tensor) -> Tensor:
        """Zeros in place of a share `p` of the numbers in training; the others grow by 1 / (1 - p)."""
        return dropout(input, self.p, self.training)


def cheapen_dropout(model: nn.Module) -> None:
    """Make each nn.Dropout of a model draw its masks here; names and settings stay."""
    for module in model.modules():
        if type(module) is nn.Dropout and not module.inplace:
            module.__class__ = Dropout


def dropout(states: Tensor, rate: float, training: bool) -> Tensor:
    """Zeros in place of a share `rate` of the numbers; the others grow by 1 / (1 - rate)."""
    if not training or rate == 0.0:
        return states
    if states.device.type != "cpu" or rate == 1.0 or torch.compiler.is_compiling():
        return F.dropout(states, rate)
    dropped: Tensor = _Dropped.apply(states, rate)  # type: ignore[no-untyped-call]
    return dropped


def draw_mask(shape: torch.Size, rate: float, dtype: torch.dtype) -> Tensor:
    """Integers as wide as `dtype`: all bits set where a number is kept, none where it is dropped."""
    integer, numpy_integer = _INTEGERS[dtype.itemsize]
    count = shape.numel()
    seed = int(torch.randint(2**63 - 1, ()))
    words = np.random.SFC64(seed).random_raw(-(-count // 4)).view(np.int16)[:count]
    kept = (words >= _threshold(rate) - _STEPS // 2).view(np.int8)
    return torch.from_numpy(np.negative(kept, dtype=numpy_integer)).view(integer).view(shape)


def keep(values: Tensor, mask: Tensor) -> Tensor:
    """The values where the mask keeps them, else 0."""
    return (values.view(mask.dtype) & mask).view(values.dtype)


def growth(rate: float) -> float:
    """What kept numbers are multiplied by, so that the expected value stays."""
    return _STEPS / (_STEPS - _threshold(rate))


def _threshold(rate: float) -> int:
    return min(round(rate * _STEPS), _STEPS - 1)


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, rate: float) -> Tensor:
        mask = draw_mask(states.shape, rate, states.dtype)
        ctx.save_for_backward(mask)
        ctx.growth = growth(rate)
        return keep(states, mask).mul_(ctx.growth)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return keep(grads[0], ctx.saved_tensors[0]).mul_(ctx.growth), None
