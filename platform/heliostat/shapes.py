"""Sizes that a CPU's products have met before.

oneDNN compiles a kernel for every shape of a bf16 product, in 1 to 10 ms, and keeps it. Unpadded batches have another
count of tokens each: without this, a tenth to a fifth of a training step, and most of a short answer, went there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def familiar(size: int) -> int:
    """`size` or a little more: multiples of 16, above 512 the next of sixteen sizes up to each power of two."""
    step = max(16, 1 << max(0, (size - 1).bit_length() - 5))
    return -(-size // step) * step


def filled(lengths: Sequence[int], device: torch.device) -> tuple[int, ...]:
    """The lengths of examples and, on a CPU, of such that fill their tokens up to a familiar count.

    Those that fill are no longer than the longest, so that what holds of positions holds of theirs.
    """
    given = tuple(lengths) or (1,)
    if device.type != "cpu":
        return given
    longest, missing = max(1, *given), familiar(sum(given)) - sum(given)
    return (*given, *(longest,) * (missing // longest), *((rest,) if (rest := missing % longest) else ()))


def fill_rows(values: Tensor, size: int) -> Tensor:
    """Zeros behind the rows of `values` [rows, ...] up to `size`."""
    missing = size - values.shape[0]
    return F.pad(values, (0, 0) * (values.dim() - 1) + (0, missing)) if missing > 0 else values
