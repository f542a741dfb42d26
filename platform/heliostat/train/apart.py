"""Validation apart from training: checkpoints are scored by an evaluator while the workers go on.

`validations.jsonl` in the run's folder holds one line a scored checkpoint, written by the evaluator alone. Which are
due is a pure function of the timetable, and which are done stands in that file: so whatever is killed, none is lost
and none comes twice. Rank 0 hands the rows on to the journal.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from heliostat import checkpoint
from heliostat.errors import CheckpointError, Stopped, TrainError
from heliostat.run import Run
from heliostat.train.assignment import Assignment, Evaluator
from heliostat.train.journal import Journal, whole_lines
from heliostat.train.policy import Validation, best
from heliostat.train.progress import Timetable
from heliostat.train.worker import Worker

FILE = "validations.jsonl"
ATTEMPTS = 4
"""Evaluators that may end in a row without a new score; after that training goes on without one."""
_WAITING, _DONE, _GIVEN_UP, _STOPPED = range(4)


class Scored(NamedTuple):
    """What became of one checkpoint: a line of `validations.jsonl`."""

    step: int
    score: float | None = None
    row: dict[str, Any] = {}  # noqa: RUF012 - never changed
    """What the journal is told."""
    broken: str = ""
    """Why it has no score: the checkpoint is damaged. Others follow."""
    refused: str = ""
    """Why no checkpoint can have one: the run asks for what is not there. None follows."""
    life: str = ""
    """Which start of the training was told so, where there is no score."""


def read_scored(folder: Path, life: str = "") -> list[Scored]:
    """The checkpoints of the run in `folder` that are dealt with, in the order of their steps.

    Those without a score count for the start of the training that was told so.
    """
    lines = (Scored(**json.loads(line)) for line in whole_lines(folder / FILE))
    return sorted((each for each in lines if each.score is not None or each.life == life), key=lambda each: each.step)


def due_checkpoints(folder: Path, timetable: Timetable) -> list[int]:
    """The steps of all whole checkpoints in the run's folder that a validation belongs to."""
    whole = sorted((folder / "checkpoints").glob(f"step-*/{checkpoint.MANIFEST}"))
    steps = [int(path.parent.name.removeprefix("step-")) for path in whole]
    return [step for step in steps if step and timetable.validates(timetable.position(step))]  # none before the first


class Aside:
    """The training's side of it: starts the evaluator, hands on its scores, waits for the last one."""

    def __init__(
        self, run: Run, prepared: Path, folder: Path, worker: Worker, journal: Journal, timetable: Timetable
    ) -> None:
        self.folder = folder
        self.worker = worker
        self.journal = journal
        self.timetable = timetable
        self.keep = run.train.keep_checkpoints
        self.refusal = ""
        """Why the training must end: no checkpoint of it can be scored."""
        self._assignment = Assignment(run.dump(), str(prepared), str(folder), secrets.token_hex(8))
        self._evaluator: Evaluator | None = None
        self._attempts = 0
        self._told: set[int] = set()

    def hand_on(self) -> None:
        """Write what was scored since to the journal, and see that the evaluator runs. Costs no step any time."""
        if self.worker.rank:
            return
        for scored in self._scored():
            self.refusal = self.refusal or scored.refused
            if scored.row and scored.step not in self.journal.validated:
                self._attempts = 0
                self.journal.write(scored.row)
            elif scored.broken and scored.step not in self._told:
                self._told.add(scored.step)
                _say(f"step {scored.step} has no validation: {scored.broken} Training goes on.")
        self._tend()

    def _tend(self) -> None:
        """Start an evaluator where there is none."""
        if self.refusal or self._attempts > ATTEMPTS or (self._evaluator and self._evaluator.is_running()):
            return
        if self._is_done():
            return
        self._attempts += 1
        if self._attempts > ATTEMPTS:
            _say(f"{self._trouble()} Training goes on; its checkpoints are kept and wait for their validation.")
        else:
            if self._evaluator:
                _say(f"the evaluator of checkpoints ended and is started again; see {self._assignment.log}.")
            self._evaluator = self.worker.evaluator(self._assignment)

    def _is_done(self) -> bool:
        return any(scored.step == self.timetable.num_steps for scored in self._scored())

    def _scored(self) -> list[Scored]:
        return read_scored(self.folder, self._assignment.life)

    def _trouble(self) -> str:
        return f"the evaluator of checkpoints ended {ATTEMPTS} times without a score; see {self._assignment.log}."

    def needed(self) -> set[int]:
        """The steps of checkpoints that may not go yet: those that wait for their validation, and the best so far."""
        scored = {each.step for each in self._scored()}  # read first: what comes meanwhile only waits
        waiting = {step for step in due_checkpoints(self.folder, self.timetable) if step not in scored}
        leader = best(_history(self.folder))
        return waiting | ({leader.step} if leader else set())

    def finish(self, settle: Callable[[], None]) -> list[Validation]:
        """Wait until the last checkpoint is scored: the best validation, or none. Every worker calls it.

        `settle` returns when the last checkpoint is written. Raises Stopped when somebody asks for it, and TrainError
        when it could not be written or there is no evaluator to be had.
        """
        try:
            settle()
        except CheckpointError as error:
            self.refusal = str(error)
        while (state := self._agreed()) == _WAITING:
            time.sleep(0.1)
        if state == _STOPPED:
            raise Stopped("stopped after the last step; its checkpoint is kept, and validations are left to do.")
        if state == _GIVEN_UP and self.worker.rank:
            raise Stopped("stopped: rank 0 says why.")
        if state == _GIVEN_UP:
            way_out = "The weights are kept, and going on with the run computes the validations that are left"
            raise TrainError(self.refusal or f"{self._trouble()} {way_out}: --resume {self.folder.name}.")
        self.hand_on()
        leader = best(_history(self.folder)) or Validation(-1, 0.0)
        # A file on a shared disk may be seen late: what rank 0 read counts.
        leader = Validation(int(self.worker.gather(leader.step)[0]), self.worker.gather(leader.score)[0])
        if leader.step < 0:
            return []
        if not self.worker.rank:
            checkpoint.collect(self.folder / "checkpoints", keep=self.keep, best=leader.step)
        return [leader]

    def _agreed(self) -> int:
        """What all workers do now: an exchange, so that none of them waits alone for longer than one may last."""
        mine = _STOPPED if self.worker.should_stop() else _WAITING
        if not self.worker.rank and mine == _WAITING:
            self.hand_on()
            is_lost = bool(self.refusal) or self._attempts > ATTEMPTS
            mine = _DONE if self._is_done() else _GIVEN_UP if is_lost else _WAITING
        states = [int(state) for state in self.worker.gather(float(mine))]
        return _STOPPED if _STOPPED in states else states[0]

    def close(self) -> None:
        """End the evaluator."""
        if self._evaluator:
            self._evaluator.stop()


def _history(folder: Path) -> list[Validation]:
    return [Validation(each.step, each.score) for each in read_scored(folder) if each.score is not None]


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
