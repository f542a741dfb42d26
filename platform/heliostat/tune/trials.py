"""Where trials run: one small protocol between the driver of a sweep and whatever trains its trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from heliostat.run import Run
from heliostat.train.policy import Continue, Stop
from heliostat.tune.records import Point


class Order(NamedTuple):
    """A trial to be trained, or to be gone on with where its folder holds a checkpoint."""

    number: int
    run: Run
    folder: Path
    prepared: Path | None
    """The prepared data, where it is known which they are; None lets the trial prepare its own."""
    measures: tuple[str, ...] = ()
    """What is measured of its best checkpoint in the end, of `run.MEASURED`."""


class Validated(NamedTuple):
    """A trial has validated and waits for an answer."""

    number: int
    point: Point
    row: Mapping[str, float]


class Ended(NamedTuple):
    """A trial has come to its end, or was stopped."""

    number: int
    reason: str
    """Empty for one that made every update."""
    prepared: Path
    costs: Mapping[str, float] = {}
    """What `Order.measures` asked for."""


class Failed(NamedTuple):
    """A trial raised, or its process is gone."""

    number: int
    error: str
    """The error's type and what it says, on one line."""
    trace: str
    is_lost: bool = False
    """Whether nobody raised anything: a process of it is gone."""
    full: str = ""
    """What the system says of a disk that takes no more, where that was the reason."""


Event = Validated | Ended | Failed


class Rehearsal(NamedTuple):
    """What a place found out about a run without training it."""

    scores: tuple[str, ...]
    """The validation scores that its head reports."""
    parameters: int
    epochs: float
    """Passes over the train split that the run makes, after `max_steps`."""
    device: str
    memory_mb: float
    """What the process holds with the model, its gradients and its optimiser."""
    trained: int = 0
    """Parameters that the optimiser moves."""
    shapes: str = ""
    """A hash of the names and shapes of all weights."""
    machine: str = ""
    free_mb: float = math.inf
    """What was free on that machine, this process beside."""

    def weighing(self, weight: Weight) -> float:
        """What a process would hold with another model, in MB: four bytes a weight, twelve more where one moves."""
        more = 4 * (weight.parameters - self.parameters) + 12 * (weight.trained - self.trained)
        return self.memory_mb + more / 1e6


class Weight(NamedTuple):
    """How large the model of a run is."""

    parameters: int
    trained: int
    shapes: str


class Trials(Protocol):
    """Some places, each of which trains one trial at a time, with one worker or several."""

    size: int
    """How many places there are."""

    def rehearse(self, run: Run, prepared: Path) -> list[Rehearsal]:
        """Build the run once in every place, which also loads whatever its trials will need."""
        ...

    def weigh(self, runs: Sequence[Run], prepared: Path) -> list[Weight | str]:
        """How large the models of other runs are; of one that cannot be built, what went wrong."""
        ...

    @property
    def free(self) -> int:
        """How many more trials can begin now."""
        ...

    def begin(self, order: Order) -> None:
        """Begin a trial in a free place."""
        ...

    def events(self, timeout_s: float) -> list[Event]:
        """What has happened, after waiting for it `timeout_s` seconds at most."""
        ...

    def answer(self, number: int, decision: Continue | Stop) -> None:
        """Let a trial that has validated go on, or end."""
        ...

    def close(self) -> None:
        """End every trial at once, and leave no process behind."""
        ...


def told(decision: Continue | Stop) -> dict[str, Any]:
    """A decision as a message."""
    return decision._asdict() if isinstance(decision, Stop) else {}
