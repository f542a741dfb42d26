"""Scores the checkpoints of a run, in their order, while others train: `python -m heliostat.train.evaluator`.

It goes back into each checkpoint as a training that goes on would, and computes what that training would compute.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from heliostat.train.assignment import Assignment

if TYPE_CHECKING:
    from heliostat.data.prepared import Prepared
    from heliostat.run import Run
    from heliostat.train.apart import Scored


def evaluate_checkpoints(assignment: Assignment) -> None:
    """Score every checkpoint that is due, until the last one of the training is scored."""
    from heliostat.data.plan import BatchPlan
    from heliostat.data.prepared import Prepared
    from heliostat.run import check
    from heliostat.train.apart import due_checkpoints, read_scored
    from heliostat.train.progress import Timetable

    folder, prepared = Path(assignment.folder), Prepared.open(Path(assignment.prepared))
    inline = {**assignment.run["train"], "validation": "inline", "trackers": []}
    run = check({**assignment.run, "train": inline})
    budget, lengths = run.train.tokens_per_batch, prepared.shards("train").lengths
    timetable = Timetable.of(run.train, BatchPlan(lengths, tokens_per_batch=budget, seed=run.train.seed))
    with _alone(folder) as file:
        seen = {each.step for each in read_scored(folder)}
        score = _scorer(run, prepared, folder, assignment.life)
        while timetable.num_steps not in seen:
            step = next((step for step in due_checkpoints(folder, timetable) if step not in seen), None)
            if step is None:
                time.sleep(0.1)
                continue
            line = score(step)
            told = {key: value for key, value in line._asdict().items() if value not in (None, "", {})}
            file.write(json.dumps(told) + "\n")
            file.flush()
            os.fsync(file.fileno())
            seen.add(step)
            if line.refused:
                return


@contextmanager
def _alone(folder: Path) -> Iterator[IO[str]]:
    """The file of scores, to be added to by this process alone: another one, whose training was killed, ends first.

    A line that was cut off goes, and so do checkpoints that were damaged: they may have been made anew.
    """
    from heliostat.train.apart import FILE
    from heliostat.train.journal import whole_lines

    with (folder / "validations.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = [line for line in whole_lines(folder / FILE) if "score" in json.loads(line)]
        staged = folder / f".{FILE}"
        staged.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        staged.replace(folder / FILE)
        with (folder / FILE).open("a", encoding="utf-8") as file:
            yield file


def _scorer(run: Run, prepared: Prepared, folder: Path, life: str) -> Callable[[int], Scored]:
    """What scores the checkpoint of a step; the model is built when the first one is there."""
    from heliostat import checkpoint
    from heliostat.errors import CheckpointError, HeliostatError
    from heliostat.train.apart import Scored
    from heliostat.train.progress import Position
    from heliostat.train.trainee import Trainee
    from heliostat.train.worker import LocalWorker

    trainees: list[Trainee] = []

    def score(step: int) -> Scored:
        path = checkpoint.step_folder(folder / "checkpoints", step)
        try:
            checkpoint.verify(path)
            trainees[:] = trainees or [Trainee.build(run, prepared, LocalWorker(), folder)]
            state = trainees[0].take(path)
            row, validation = trainees[0].scored(Position(*state.trainer["position"]))
            return Scored(step, validation.score, row)
        except CheckpointError as error:
            return Scored(step, broken=str(error), life=life)
        except HeliostatError as error:
            return Scored(step, refused=str(error), life=life)

    return score


class ChildProcess:
    """An evaluator on this machine. It ends with this process, whatever ends it."""

    def __init__(self, assignment: Assignment) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        threads = str(threads_of_evaluator())
        with assignment.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "heliostat.train.evaluator"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
                start_new_session=True,  # Ctrl-C is for those who train
            )
        assert self._process.stdin
        with self._process.stdin as stdin:
            stdin.write(json.dumps({**assignment._asdict(), "parent": os.getpid()}).encode())

    def is_running(self) -> bool:
        """Whether it is still there."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()


def threads_of_evaluator() -> int:
    """A quarter of the cores: training has the others."""
    from heliostat.train.crew import share_of_cores

    return share_of_cores(4)


def _end_with(parent: int) -> None:
    """End this process once its parent is gone, be it by kill -9."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(0)

    threading.Thread(target=watch, daemon=True, name="parent").start()


def main() -> None:
    """Evaluate what stdin assigns."""
    told = json.loads(sys.stdin.read())
    _end_with(told.pop("parent"))
    from heliostat.train.worker import set_threads

    set_threads(threads_of_evaluator())
    evaluate_checkpoints(Assignment(**told))


if __name__ == "__main__":
    main()
