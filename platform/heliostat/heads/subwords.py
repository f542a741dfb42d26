"""Subword noise: now and then a token is taken apart into the two that it was merged from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from heliostat.batch import Batch, Draws
from heliostat.heads.masking import ragged

if TYPE_CHECKING:
    from heliostat.batch import Ragged

Ids = npt.NDArray[np.int64]

_ROUNDS = 3
"""How often the parts may be taken apart again."""


def taken_apart(
    batch: Batch, column: str, halves: Ids, rate: float, draws: Draws, *, stream: int, max_tokens: int
) -> Ragged:
    """The column with each token taken apart with probability `rate`, and its parts again, a few times.

    A text then comes in many spellings, as with BPE dropout (Provilkov et al. 2020), while the ids of the shards stay
    what they were. `halves` [vocabulary, 2] holds -1 where a token has no parts. A text that would grow beyond
    `max_tokens` stays as it was.
    """
    whole = batch.ragged(column)
    for number in range(_ROUNDS):
        chosen = draws.uniform_like(batch, column, stream + number) < rate
        ids = batch.ragged(column).values.numpy()
        parts = halves[ids]
        parts[~chosen, 0], parts[~chosen, 1] = ids[~chosen], -1
        kept = parts >= 0
        owners = np.repeat(np.arange(len(batch)), batch.ragged(column).lengths)
        lengths = np.bincount(owners, kept.sum(1), len(batch)).astype(np.int64)
        batch = batch.with_columns(**{column: ragged(parts[kept], lengths)})
    grown = batch.ragged(column)
    fits = [length <= max_tokens for length in grown.lengths]
    if all(fits):
        return grown
    pieces = zip(fits, grown.split(), whole.split(), strict=True)
    return type(whole).of([new if fit else old for fit, new, old in pieces])
