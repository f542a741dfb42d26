"""How much there is to do in a run, from its prepared data and its settings alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from heliostat.data.plan import BatchPlan
from heliostat.run import Run
from heliostat.train.progress import Timetable

if TYPE_CHECKING:
    from heliostat.data.prepared import Prepared


class Work(NamedTuple):
    """What a training goes through from its first update to its last, if nothing ends it early."""

    examples: int
    """Of the train split."""
    valid_examples: int
    valid_tokens: int
    steps: int
    """Updates."""
    validations: int
    tokens: int
    """That are learned from, in all steps together."""
    longest: int
    """Tokens of the longest example."""

    @property
    def tokens_per_step(self) -> float:
        """Tokens of a global batch, on average."""
        return self.tokens / max(1, self.steps)


def work_of(run: Run, prepared: Prepared) -> Work:
    """Count it, batch by batch of the plan's first epoch; later ones differ by a few batches."""
    train, valid, settings = prepared.shards("train"), prepared.shards("valid"), run.train
    plan = BatchPlan(train.lengths, tokens_per_batch=settings.tokens_per_batch, seed=settings.seed)
    timetable = Timetable.of(settings, plan)
    ends = (timetable.position(step) for step in range(1, timetable.num_steps + 1))
    validations = sum(timetable.validates(after) for after in ends)
    total = int(train.lengths.sum(dtype=np.int64))
    share = timetable.num_steps / sum(timetable.steps_of_epoch)
    return Work(
        examples=len(train),
        valid_examples=len(valid),
        valid_tokens=int(valid.lengths.sum(dtype=np.int64)),
        steps=timetable.num_steps,
        validations=validations,
        tokens=round(total * len(timetable.steps_of_epoch) * share),
        longest=int(train.lengths.max()) if len(train) else 0,
    )
