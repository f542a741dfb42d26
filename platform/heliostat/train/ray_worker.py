"""A worker that Ray started, and the Ray task that scores its checkpoints."""

from __future__ import annotations

from typing import Any

import ray

from heliostat.train.assignment import Assignment, Evaluator
from heliostat.train.worker import TorchWorker


class RayWorker(TorchWorker):
    """A member of torch's process group that Ray Train set up."""

    def evaluator(self, assignment: Assignment) -> Evaluator:
        """Start what scores checkpoints while this worker trains: a task, wherever Ray has room for it."""
        return RayTask(assignment)


class RayTask:
    """An evaluator as a task of Ray, on a GPU that nobody has, or else on a CPU. It ends with the worker it is of."""

    def __init__(self, assignment: Assignment) -> None:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        free = ray.available_resources().get("GPU", 0.0)
        # It takes no CPU from Ray's count: all of them may be promised to the workers, and then it would never start.
        self._task = ray.remote(_evaluate).options(
            num_cpus=0,
            num_gpus=1 if free >= 1 else 0,
            max_retries=0,
            name="heliostat-evaluator",
            scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=None),
        ).remote(assignment._asdict())  # fmt: skip
        self._log = assignment.log

    def is_running(self) -> bool:
        """Whether it is still there; what ended it is written to its log."""
        done, _ = ray.wait([self._task], timeout=0)
        if not done:
            return True
        try:
            ray.get(done[0])
        except Exception as error:
            with self._log.open("a", encoding="utf-8") as log:
                log.write(f"{error}\n")
        return False

    def stop(self) -> None:
        """Kill it."""
        ray.cancel(self._task, force=True)


def _evaluate(told: dict[str, Any]) -> None:
    from heliostat.train.evaluator import evaluate_checkpoints, threads_of_evaluator
    from heliostat.train.worker import set_threads

    set_threads(threads_of_evaluator())
    evaluate_checkpoints(Assignment(**told))
