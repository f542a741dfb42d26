"""The training loop: plan, forward, backward, clip, step, average, validate, save. It knows no Ray.

Every step is a pure function of (weights, optimiser, seed, position): the batch comes from the plan, what is drawn for
an example from its id, dropout from (seed, step, rank). So a resume needs weights, optimiser and position, and no more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from heliostat.data.plan import Rows
from heliostat.data.prepared import Prepared
from heliostat.errors import Stopped, TrainError
from heliostat.run import Run
from heliostat.train.policy import Stop, Validation, after_validation, best
from heliostat.train.progress import Position, Timetable
from heliostat.train.schedule import lr_factor
from heliostat.train.trainee import Trainee
from heliostat.train.truth import check_truth
from heliostat.train.update import Update
from heliostat.train.update import update as make_update
from heliostat.train.worker import Worker


class Outcome(NamedTuple):
    """How a training ended."""

    step: int
    best: Validation
    seconds: float
    reason: str
    """Why it ended before its last step; empty when it did not."""


def fit(run: Run, prepared: Prepared, worker: Worker, folder: Path) -> Outcome:
    """Train `run` on `prepared` in `folder`, from the newest whole checkpoint there or from the start.

    Every worker calls it with the same run. Raises Stopped after saving when somebody asked for it, and TrainError when
    the loss is not finite or workers have drifted apart.
    """
    started = time.monotonic()
    trainee = Trainee.build(run, prepared, worker, folder)
    try:
        reason, history = _train(trainee)
    finally:
        trainee.close()
    leader = best(history)
    if leader is None:
        raise TrainError("the training ended without a validation: train.max_steps or train.epochs leaves no step.")
    return Outcome(trainee.position.step, leader, time.monotonic() - started, reason)


def _train(trainee: Trainee) -> tuple[str, list[Validation]]:
    """Make every update that is left. Returns why training ended early, if it did, and all validations."""
    run, worker = trainee.run, trainee.worker
    timetable = Timetable.of(run.train, trainee.plan)
    start, history = trainee.restore()
    if trainee.ranks:
        trainee.ranks.begin(timetable.num_steps)
    trainee.journal.open(start.step)
    decision = after_validation(history, run.train.patience)
    if isinstance(decision, Stop):  # it had come to its end before it was resumed
        return decision.reason, history
    for position, rows in _global_batches(trainee, timetable, start):
        lr = run.train.lr * lr_factor(timetable.progress(position), run.train.warmup, run.train.schedule)
        update = make_update(trainee, rows, position, lr)
        _refuse_nan(run, update, position)
        after = timetable.next(position)
        trainee.log(update, after, lr, timetable.num_steps)
        if after.step == 1 or timetable.validates(after):
            check_truth(worker, trainee.model, after.step)
        if timetable.validates(after):
            history = [*history, trainee.validate(after)]
            trainee.save(after, history)
            decision = after_validation(history, run.train.patience)
            if isinstance(decision, Stop):
                return decision.reason, history
        elif update.stop or timetable.checkpoints(after):
            trainee.save(after, history)
        if update.stop:
            raise Stopped(f"stopped after step {after.step}; its checkpoint is kept.")
    return "", history


def _global_batches(trainee: Trainee, timetable: Timetable, start: Position) -> Iterator[tuple[Position, Rows]]:
    """Every global batch from `start` on, with the position of its update."""
    position = start
    while position.step < timetable.num_steps:
        for rows in trainee.plan.batches(position.epoch, position.batch):
            yield position, rows
            position = timetable.next(position)
            if position.step >= timetable.num_steps or position.batch == 0:
                break


def _refuse_nan(run: Run, update: Update, position: Position) -> None:
    if not math.isfinite(update.grad_norm) and run.train.on_nan == "stop":
        raise TrainError(
            f"the gradient is not finite at step {position.step + 1}: lower train.lr ({run.train.lr}), set "
            "train.clip_norm, or leave such updates out with train.on_nan=skip. The last checkpoint is kept."
        )
