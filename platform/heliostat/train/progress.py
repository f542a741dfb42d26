"""Where a training stands, and what is due there: pure functions of the plan and the settings."""

from __future__ import annotations

from typing import NamedTuple

from heliostat.data.plan import BatchPlan
from heliostat.run import TrainSettings


class Position(NamedTuple):
    """Between two updates: how many are done, and which batch of which epoch comes next."""

    step: int
    epoch: int
    batch: int


START = Position(0, 0, 0)
"""Before the first update."""


class Timetable(NamedTuple):
    """Which updates there will be, and after which of them a validation is due."""

    steps_of_epoch: tuple[int, ...]
    num_steps: int
    evaluations_per_epoch: int
    checkpoint_every: int | None
    check_every: int | None = None

    @classmethod
    def of(cls, settings: TrainSettings, plan: BatchPlan) -> Timetable:
        """The timetable of a run; a fraction of an epoch rounds up to whole updates."""
        epochs = int(-(-settings.epochs // 1))
        steps = [plan.num_batches(epoch) for epoch in range(epochs)]
        last_share = settings.epochs - (epochs - 1)
        num_steps = sum(steps[:-1]) + max(1, round(steps[-1] * last_share))
        num_steps = min(num_steps, settings.max_steps or num_steps)
        parts, every = settings.evaluations_per_epoch, settings.checkpoint_every
        return cls(tuple(steps), num_steps, parts, every, settings.check_every)

    def progress(self, position: Position) -> float:
        """The share of the training done when the update at `position` is made: its middle, so never 0 or 1."""
        return (position.step + 0.5) / self.num_steps

    def epochs(self, position: Position) -> float:
        """Passes over the train split that are done at `position`."""
        done = position.epoch == len(self.steps_of_epoch)
        return float(position.epoch) if done else position.epoch + position.batch / self.steps_of_epoch[position.epoch]

    def next(self, position: Position) -> Position:
        """The position after one update."""
        batch = position.batch + 1
        if batch == self.steps_of_epoch[position.epoch]:
            return Position(position.step + 1, position.epoch + 1, 0)
        return Position(position.step + 1, position.epoch, batch)

    def position(self, step: int) -> Position:
        """The position after `step` updates."""
        epoch = 0
        batch = step
        while epoch < len(self.steps_of_epoch) and batch >= self.steps_of_epoch[epoch]:
            batch -= self.steps_of_epoch[epoch]
            epoch += 1
        return Position(step, epoch, batch)

    def validates(self, after: Position) -> bool:
        """Whether a validation is due at `after`: at even shares of each epoch, and at the end."""
        if after.step == self.num_steps or after.batch == 0:
            return True
        steps, parts = self.steps_of_epoch[after.epoch], self.evaluations_per_epoch
        return any(after.batch == round(steps * part / parts) for part in range(1, parts))

    def checkpoints(self, after: Position) -> bool:
        """Whether a checkpoint is due at `after` beside those that follow a validation."""
        return self.checkpoint_every is not None and after.step % self.checkpoint_every == 0

    def saved_before(self, position: Position) -> int:
        """The step of the last checkpoint that is due before the update at `position`; 0 is the start.

        It counts none that a stop or a restart brought, so that a run which was stopped goes back as far as one that
        was not.
        """
        for back in range(position.batch):
            earlier = Position(position.step - back, position.epoch, position.batch - back)
            if self.validates(earlier) or self.checkpoints(earlier):
                return earlier.step
        return position.step - position.batch

    def proves(self, after: Position) -> bool:
        """Whether the workers compare themselves at `after`: at first, at equal steps, and before each validation."""
        if self.check_every is None:
            return False
        return after.step == 1 or after.step % self.check_every == 0 or self.validates(after)
