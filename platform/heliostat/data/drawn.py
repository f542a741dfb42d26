"""The rows of a batch as a model sees them in an epoch: with all that the head draws for them anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from heliostat.batch import Batch, Draws
from heliostat.data.augment import Augmenter
from heliostat.data.shards import Shards
from heliostat.features import FeatureSpec
from heliostat.plugin import TaskHead

_PARTNERS = 103  # the stream of random draws


def drawn(
    shards: Shards,
    rows: npt.NDArray[np.int64],
    head: TaskHead,
    draws: Draws,
    spec: FeatureSpec,
    augmenter: Augmenter | None = None,
) -> Batch:
    """The examples at `rows`, prepared by the head. Pure in (rows, draws): no other row of the batch counts.

    `augmenter` changes words first: in training, and never in validation. A head that asks for partners gets another
    example of the split for each, drawn by (seed, epoch, example id).
    """
    batch = shards.batch(rows)
    if augmenter is not None:
        batch = augmenter(batch, draws)
    if head.draws_partners and len(batch):
        places = (draws.uniform(batch, _PARTNERS) * len(shards)).astype(np.int64)
        batch = replace(batch, partners=shards.batch(places))
    return replace(head.prepare(batch, draws, spec), partners=None)
