"""The training loop: plan, forward, backward, clip, step, average, validate, save. It knows no Ray.

Every step is a pure function of (weights, optimiser, seed, position): the batch comes from the plan, what is drawn for
an example from its id, dropout from (seed, step, rank). So a resume needs weights, optimiser and position, and no more.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from heliostat.data.plan import Rows
from heliostat.data.prepared import Prepared
from heliostat.errors import Stopped, TrainError
from heliostat.run import Run
from heliostat.train.memory import keep_memory
from heliostat.train.policy import Continue, LeaveOut, RollBack, Stop, Validation, after_nan, after_validation, best
from heliostat.train.progress import START, Position, Timetable
from heliostat.train.schedule import lr_at
from heliostat.train.trainee import Trainee
from heliostat.train.truth import check_truth
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
    keep_memory()
    trainee = Trainee.build(run, prepared, worker, folder)
    try:
        reason, history = _train(trainee)
        if trainee.aside:
            history = trainee.aside.finish(trainee.saver.settle)
    except BaseException as error:
        trainee.close("stopped" if isinstance(error, (Stopped, KeyboardInterrupt)) else "failed")
        raise
    trainee.close("finished")
    leader = best(history)
    if leader is None:
        raise TrainError("the training ended without a validation: train.max_steps or train.epochs leaves no step.")
    return Outcome(trainee.position.step, leader, time.monotonic() - started, reason)


def _train(trainee: Trainee) -> tuple[str, list[Validation]]:
    """Make every update that is left. Returns why training ended early, if it did, and all validations."""
    timetable = Timetable.of(trainee.run.train, trainee.plan)
    failed, back_to, rollbacks = None, None, Counter[int]()
    while True:
        start, history = trainee.restore(back_to)
        if trainee.ranks:
            trainee.ranks.begin(timetable.num_steps)
        if failed is not None and back_to is not None:
            trainee.left_out |= set(range(max(start.step, back_to), failed.step + 1))
        elif trainee.run.train.on_nan == "rollback" and start == START:
            trainee.save(start, history)  # something to go back to
        trainee.journal.open(start.step)
        ended = _train_from(trainee, timetable, start, history, rollbacks)
        if not isinstance(ended, Position):
            return ended
        failed, back_to = ended, timetable.saved_before(ended)
        rollbacks[back_to] += 1
        trainee.settle()


def _train_from(
    trainee: Trainee, timetable: Timetable, start: Position, history: list[Validation], rollbacks: Mapping[int, int]
) -> tuple[str, list[Validation]] | Position:
    """Make the updates from `start` to the end, or up to the one that demands a rollback: then its position."""
    settings = trainee.run.train
    decision = after_validation(history, settings.patience)
    if isinstance(decision, Stop):  # it had come to its end before it was resumed
        return decision.reason, history
    for position, rows in _global_batches(trainee, timetable, start):
        lr, after = lr_at(timetable.progress(position), settings), timetable.next(position)
        update = None if position.step in trainee.left_out else make_update(trainee, rows, position, lr)
        if update and not math.isfinite(update.grad_norm):
            if isinstance(_judge_nan(trainee, position, rollbacks[timetable.saved_before(position)]), RollBack):
                return position
            trainee.left_out.add(position.step)
        trainee.log(update, after, lr, timetable.num_steps)
        if timetable.proves(after):
            check_truth(trainee.worker, trainee.model, trainee.seen, after.step)
        stop = update is not None and update.stop
        validates = timetable.validates(after)
        if validates and not trainee.aside:
            judged = trainee.validate(after, timetable)
            history = [*history, judged.validation]
            asked = trainee.worker.judge(judged)
            if isinstance(asked, Continue) or asked.is_kept:
                trainee.save(after, history)
            decision = after_validation(history, settings.patience) if isinstance(asked, Continue) else asked
            if isinstance(decision, Stop):
                return decision.reason, history
        elif validates or stop or timetable.checkpoints(after):
            trainee.save(after, history)
        if stop:
            if trainee.aside and trainee.aside.refusal:
                raise TrainError(trainee.aside.refusal)
            raise Stopped(f"stopped after step {after.step}; its checkpoint is kept.")
    return "", history


def _global_batches(trainee: Trainee, timetable: Timetable, start: Position) -> Iterator[tuple[Position, Rows]]:
    """Every global batch from `start` on, with the position of its update. Raises TrainError where there is none."""
    position = start
    while position.step < timetable.num_steps:
        before = position
        for rows in trainee.plan.batches(position.epoch, position.batch):
            yield position, rows
            position = timetable.next(position)
            if position.step >= timetable.num_steps or position.batch == 0:
                break
        if position == before:
            raise TrainError(
                f"the data have no batch {position.batch} in epoch {position.epoch}: they are others than those of the "
                "checkpoint. Put back the data that the run began with, or start a new run."
            )


def _judge_nan(trainee: Trainee, position: Position, rollbacks: int) -> LeaveOut | RollBack:
    """What the policy says about a gradient that is not finite. Raises TrainError when it says stop."""
    settings = trainee.run.train
    decision = after_nan(settings.on_nan, trainee.left_out, position.step, rollbacks)
    if not isinstance(decision, Stop):
        return decision
    way_out = (
        "or leave such updates out with train.on_nan=skip (rollback goes back to the last checkpoint, too)"
        if settings.on_nan == "stop"
        else f"as train.on_nan={settings.on_nan} {decision.reason}"
    )
    raise TrainError(
        f"the gradient is not finite at step {position.step + 1}: lower train.lr ({settings.lr}), set "
        f"train.clip_norm, {way_out}. The last checkpoint is kept."
    )
