"""The golden answers of a checkpoint: what every later copy of the model must answer."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
import torch

from heliostat.batch import Batch
from heliostat.component import Row
from heliostat.data.clean import Cleaner
from heliostat.data.collate import collate
from heliostat.data.encode import inputs_of
from heliostat.model import Model
from heliostat.run import Parts, Run


class Golden(NamedTuple):
    """The head's sample records, to be asked of one model after another."""

    requests: list[tuple[Row, Batch]]
    """Each sample with the batch of one that asks it, on the host."""

    @classmethod
    def of(cls, parts: Parts, run: Run | None = None) -> Self:
        """Encode the samples as requests are, defaults and conversions included.

        `run` says how texts are cleaned; None cleans nothing.
        """
        cleaner = Cleaner.of(run) if run else None
        made = []
        for sample in parts.head.samples:
            asked = parts.head.takes.model_validate(sample).model_dump()
            encoded = inputs_of(parts.encoder, parts.head, [cleaner(asked).values if cleaner else asked])
            made.append((dict(sample), collate(encoded, np.zeros(1, dtype=np.uint64))))
        return cls(made)

    @torch.no_grad()
    def answers(self, model: Model) -> list[tuple[Row, Row]]:
        """Each sample with what a model on the host answers: one by one, in fp32."""
        return [(sample, model.predict(batch)[0]) for sample, batch in self.requests]
