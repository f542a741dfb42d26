"""Who is told how a sweep goes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from heliostat.tune.records import Aim, Exploit, Trial


class View(NamedTuple):
    """A sweep as it stands, for whoever looks on."""

    trials: tuple[Trial, ...]
    total: int
    concurrent: int
    metric: str
    seconds_left: float | None
    is_error: bool = False
    """Whether less of the metric is better."""
    aims: tuple[Aim, ...] = ()
    """All that trials are compared by, `metric` first."""


class SweepWatcher:
    """Somebody who is told how a sweep goes; this one does not care."""

    def preparing(self, stage: str, done: int, total: int | None) -> None:
        """Data are being prepared: `done` of `total` records of this stage, where the total is known."""

    def started(self, sweep_id: str, folder: Path) -> None:
        """The sweep has an id, by which it can be continued."""

    def update(self, view: View) -> None:
        """Something may have changed; called a few times a second."""

    def exploited(self, exploit: Exploit) -> None:
        """A member of a population goes on with the weights of another, which have arrived in its folder."""
