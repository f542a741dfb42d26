"""What a pool says to its processes, on processes that are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from heliostat.run import check
from heliostat.tune.pool import Pool
from heliostat.tune.preflight import Places
from heliostat.tune.trials import Weight


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
    values: dict[str, Any] = {
        "name": "toy",
        "data": {"adapter": "core.columns", "source": "rows.csv"},
        "encoder": {"type": "core.text", "preset": "tiny"},
        "head": "core.classification",
    }
    pool = Pool(Hires(), Places(2, 1, 1))
    pool.rehearse(check(values), Path())
    runs = [check({**values, "train": {"max_steps": size}}) for size in range(1, 6)]
    assert pool.weigh(runs, Path()) == [Weight(size, size, "") for size in range(1, 6)]
