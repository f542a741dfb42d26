"""Dropout with masks that are cheap to draw on CPUs, where torch's own take a quarter of a step: they come one by one.

A mask is made of 15 random bits a value, so a rate is rounded to 1/32,768. It holds what a value is multiplied by: 0,
or what keeps the expected value. The bits lie in a pool that is drawn once; each mask reads a stretch of it from a
random place and flips a random pattern in every value, so that within a mask values are independent. Place and pattern
come from torch's generator: a forward pass that is made again from the same state of that generator, as activation
checkpointing does, drops the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STEPS = 1 << 15
_POOL = 1 << 24
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integers as wide as a number of so many bytes."""


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
    """What values of `dtype` are multiplied by: 0 for a share `rate` of them, 1 / (1 - rate) for the others."""
    grown = torch.tensor(growth(rate), dtype=dtype).view(_INTEGERS[dtype.itemsize])
    return draw_kept(shape, rate, dtype).bitwise_and_(grown).view(dtype)


def draw_kept(shape: torch.Size, rate: float, dtype: torch.dtype) -> Tensor:
    """What the bits of values of `dtype` are masked by, for `masked`: none for a share `rate` of them, else all."""
    bits = _random_bits(shape.numel())
    # Integers are cheaper to compare and to fill in than any float; the sign of the difference says who is kept.
    last = torch.tensor(_dropped(rate) - 1, dtype=bits.dtype)
    kept = torch.sub(last, bits, out=bits).bitwise_right_shift_(_STEPS.bit_length() - 1)
    return kept.to(_INTEGERS[dtype.itemsize]).view(shape)


def masked(values: Tensor, kept: Tensor, *, out: Tensor | None = None) -> Tensor:
    """`values` where they are kept, zeros elsewhere; in place where `out` is `values`. Nothing grows."""
    bits = torch.bitwise_and(values.view(kept.dtype), kept, out=None if out is None else out.view(kept.dtype))
    return bits.view(values.dtype)


def growth(rate: float) -> float:
    """What the values that are kept are multiplied by, so that the expected value stays."""
    return _STEPS / (_STEPS - _dropped(rate))


def _dropped(rate: float) -> int:
    return min(round(rate * _STEPS), _STEPS - 1)


def _random_bits(count: int) -> Tensor:
    """Values from 0 to 32,767: [count], int16."""
    pool, bits, done = _pool(_POOL), torch.empty(count, dtype=torch.int16), 0
    while done < count:
        place, flips = int(torch.randint(_POOL, ())), int(torch.randint(_STEPS, ()))
        part = pool[place : place + count - done]
        torch.bitwise_xor(part, flips, out=bits[done : done + len(part)])
        done += len(part)
    return bits


@cache
def _pool(size: int) -> Tensor:
    """[size], int16: 32 MB a process, the same in all."""
    words = np.random.SFC64(0).random_raw(size // 4).view(np.int16)
    return torch.from_numpy(words & np.int16(_STEPS - 1))


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, rate: float) -> Tensor:
        mask = draw_mask(states.shape, rate, states.dtype)
        ctx.save_for_backward(mask)
        return states * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.saved_tensors[0], None
