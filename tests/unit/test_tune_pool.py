"""What a pool says to its processes, on processes that are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from heliostat.run import check
from heliostat.tune.pool import Pool
from heliostat.tune.preflight import Places
from heliostat.tune.trials import Ended, Event, Failed, Order, Weight

VALUES: dict[str, Any] = {
    "name": "toy",
    "data": {"adapter": "core.columns", "source": "rows.csv"},
    "encoder": {"type": "core.text", "preset": "tiny"},
    "head": "core.classification",
}
ENDED = {"is": "ended", "reason": "", "prepared": "data", "costs": {}}


class Backwards:
    """A process that answers what it was told last first, as an actor with several threads may."""

    def __init__(self) -> None:
        self.is_gone = False
        self.told: list[Mapping[str, Any]] = []

    def send(self, message: Mapping[str, Any]) -> None:
        self.told.append(message)

    def receive(self) -> dict[str, Any] | None:
        order = self.told.pop()
        if order["do"] == "rehearse":
            return {"is": "rehearsed", "scores": [], "parameters": 1, "epochs": 1.0, "device": "cpu", "memory_mb": 1.0}
        size = order["run"]["train"]["max_steps"]
        return {"is": "weighed", "parameters": size, "trained": size, "shapes": ""}


class Hires:
    """A source of them."""

    told_late_s = 0.0
    log = Path("trials.log")

    def start(self) -> None:
        """Nothing."""

    def hire(self, number: int) -> list[Any]:
        return [Backwards() for _ in range(number)]

    def wait(self, processes: Sequence[Any], timeout_s: float) -> list[Any]:
        return list(processes)

    def dismiss(self, processes: Sequence[Any]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def test_weights_are_those_of_their_runs_in_whatever_order_a_process_hears() -> None:
    pool = Pool(Hires(), Places(2, 1, 1))
    pool.rehearse(check(VALUES), Path())
    runs = [check({**VALUES, "train": {"max_steps": size}}) for size in range(1, 6)]
    assert pool.weigh(runs, Path()) == [Weight(size, size, "") for size in range(1, 6)]


class Doomed(Backwards):
    """A process that says so much of a trial, and then is gone."""

    def __init__(self, *says: Mapping[str, Any]) -> None:
        super().__init__()
        self.says = [dict(each) for each in says]

    def receive(self) -> dict[str, Any] | None:
        if self.says:
            return self.says.pop(0)
        self.is_gone = True
        return None


class Some(Hires):
    """A source of these processes, in their order; one that has been told nothing says nothing."""

    def __init__(self, *processes: Doomed) -> None:
        self.left = list(processes)

    def hire(self, number: int) -> list[Any]:
        return [self.left.pop(0) for _ in range(number)]

    def wait(self, processes: Sequence[Any], timeout_s: float) -> list[Any]:
        return [each for each in processes if each.told]


BEGAN = {"is": "began"}


@pytest.mark.parametrize(
    ("workers", "hired", "handed", "ends"),
    [
        (1, [Doomed(), Doomed(BEGAN, ENDED)], 2, "well"),
        (1, [Doomed(BEGAN), Doomed(BEGAN, ENDED)], 1, "lost"),  # it may have died of the trial
        (1, [Doomed(), Doomed(), Doomed(BEGAN, ENDED)], 2, "lost"),
        (2, [Doomed(BEGAN, {"is": "meeting"}), Doomed(), Doomed(BEGAN), Doomed()], 3, "lost"),
    ],
)
def test_a_trial_is_handed_on_where_a_process_had_died_before_it_began(
    workers: int, hired: list[Doomed], handed: int, ends: str, tmp_path: Path
) -> None:
    pool = Pool(Some(*hired), Places(1, workers, 1))
    pool.begin(Order(7, check(VALUES), tmp_path, None, ()))
    events: list[Event] = []
    for _ in range(6):
        events += pool.events(0.0)
    (event,) = events
    if ends == "well":
        assert isinstance(event, Ended)
    else:
        assert isinstance(event, Failed)
        assert event.is_lost
    assert (event.number, sum(bool(each.told) for each in hired)) == (7, handed)
