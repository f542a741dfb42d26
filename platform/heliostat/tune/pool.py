"""Trials in a pool of warm processes: one of them for each worker of a trial, wherever they come from."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from heliostat.errors import TrainError
from heliostat.run import Run
from heliostat.train.policy import Continue, Stop
from heliostat.tune.preflight import Places
from heliostat.tune.records import Point
from heliostat.tune.trials import Ended, Event, Failed, Order, Rehearsal, Trials, Validated, Weight, told


class Process(Protocol):
    """One warm process that serves (`place.serve`)."""

    is_gone: bool
    """Whether it is known to have ended."""

    def send(self, message: Mapping[str, Any]) -> None:
        """Tell it; one that is gone hears nothing."""
        ...

    def receive(self) -> dict[str, Any] | None:
        """The next message; None from a process that is gone."""
        ...


class Source(Protocol):
    """Where processes come from."""

    told_late_s: float
    """How long after the fact one learns that a process is gone."""
    log: Path

    def start(self) -> None:
        """Begin to get ready, without waiting for it. Raises TrainError for what can never come."""
        ...

    def hire(self, number: int) -> list[Any]:
        """Processes that are near each other, as workers of one trial. Raises TrainError when they cannot start."""
        ...

    def wait(self, processes: Sequence[Any], timeout_s: float) -> list[Any]:
        """Those that have something to say, or are gone, after waiting for it `timeout_s` seconds at most."""
        ...

    def dismiss(self, processes: Sequence[Any]) -> None:
        """End them at once."""
        ...

    def close(self) -> None:
        """End all of them, and leave nothing behind."""
        ...


@dataclass(eq=False)
class _Crew:
    """The processes of one place: as many as a trial has workers. They stay together from trial to trial."""

    members: list[Process]
    number: int | None = None
    """The trial that it works on."""
    order: Mapping[str, Any] = field(default_factory=dict)
    ended: Ended | None = None
    """What the first worker said at the end of the trial; it is over when all of them have."""
    working: int = 0
    """Members that have not come to the end of the trial."""
    silent: int = 0
    """Members that have not said that they begin: one may have been dead when the trial was handed to it."""
    is_second: bool = False
    """Whether the trial was handed on from another place, where a member was dead before it began."""


class Pool(Trials):
    """As many places as trials run at a time, each with a process for each worker of a trial."""

    def __init__(self, source: Source, shared: Places) -> None:
        self.source, self.shared, self.size = source, shared, shared.concurrent
        self._crews: list[_Crew] = []

    def rehearse(self, run: Run, prepared: Path) -> list[Rehearsal]:
        """Build the run once in every process. Raises TrainError with what went wrong in one."""
        while len(self._crews) < self.size:
            self._hire()
        order = {"do": "rehearse", "run": run.dump(), "prepared": str(prepared), "threads": self.shared.threads}
        processes = self._everybody()
        for process in processes:
            process.send(order)
        return [self._rehearsed(process) for process in processes]

    def weigh(self, runs: Sequence[Run], prepared: Path) -> list[Weight | str]:
        """Build the models of other runs, shared out over the processes. Raises TrainError when one of them is gone."""
        processes, found = self._everybody(), list[Weight | str]()
        order = {"do": "weigh", "prepared": str(prepared), "threads": self.shared.threads}
        for start in range(0, len(runs), len(processes)):  # one order a process: Ray may hand on several in any order
            some = runs[start : start + len(processes)]
            for process, run in zip(processes, some, strict=False):
                process.send({**order, "run": run.dump()})
            for process, _ in zip(processes, some, strict=False):
                message = process.receive()
                if message is None:
                    what = "a process of the sweep is gone: killed, or out of memory"
                    raise TrainError(f"{what}. See {self.source.log}.")
                kind = message.pop("is")
                found.append(message["error"] if kind == "failed" else Weight(**message))
        return found

    @property
    def free(self) -> int:
        """Places without a trial."""
        return self.size - sum(crew.number is not None for crew in self._crews)

    def begin(self, order: Order) -> None:
        """Hand a trial to the first worker of a place that is free; it says where the others meet it."""
        prepared = None if order.prepared is None else str(order.prepared)
        message: dict[str, Any] = {
            "do": "train",
            "run": order.run.dump(),
            "folder": str(order.folder),
            "prepared": prepared,
        }
        message |= {"threads": self.shared.threads, "measures": list(order.measures)}
        message |= {"rank": 0, "world_size": self.shared.workers}
        self._hand(self._idle() or self._hire(), order.number, message)

    def events(self, timeout_s: float) -> list[Event]:
        """What the places have said; one of which a process is gone has failed, and another comes when asked for."""
        at_work = {id(member): crew for crew in self._crews if crew.number is not None for member in crew.members}
        everybody = [member for crew in self._crews if crew.number is not None for member in crew.members]
        events = []
        for member in self.source.wait(everybody, timeout_s):
            crew = at_work[id(member)]
            if crew.number is not None and (event := self._heard(crew, member)):
                events.append(event)
        return events

    def answer(self, number: int, decision: Continue | Stop) -> None:
        """Let the trial go on, or end."""
        crew = next((crew for crew in self._crews if crew.number == number), None)
        if crew:  # or else it is gone
            crew.members[0].send(told(decision))

    def close(self) -> None:
        """End every process."""
        self._crews = []
        self.source.close()

    def _hand(self, crew: _Crew, number: int, order: Mapping[str, Any], *, again: bool = False) -> None:
        crew.number, crew.order, crew.ended, crew.is_second = number, order, None, again
        crew.working = crew.silent = self.shared.workers
        crew.members[0].send(order)

    def _everybody(self) -> list[Process]:
        return [member for crew in self._crews for member in crew.members]

    def _idle(self) -> _Crew | None:
        """A place without a trial whose processes all live; where one has died meanwhile, the others are ended, too."""
        for crew in [crew for crew in self._crews if crew.number is None]:
            if not self._is_anybody_gone(crew, 0.0):
                return crew
            self._crews.remove(crew)
            self.source.dismiss(crew.members)
        return None

    def _hire(self) -> _Crew:
        crew = _Crew(self.source.hire(self.shared.workers))
        self._crews.append(crew)
        return crew

    def _rehearsed(self, process: Process) -> Rehearsal:
        message = process.receive()
        if message is None or message["is"] == "failed":
            what = message["error"] if message else "its process is gone: killed, or out of memory"
            raise TrainError(f"a trial cannot be built: {what}. See {self.source.log}.")
        message.pop("is")
        return Rehearsal(**{**message, "scores": tuple(message["scores"])})

    def _heard(self, crew: _Crew, member: Process) -> Event | None:
        number, message = crew.number, member.receive()
        assert number is not None
        kind = message.pop("is") if message else "gone"
        if message is None or kind == "failed":
            return self._lost(crew, number, message)
        if kind == "began":
            crew.silent -= 1
            return None
        if kind == "meeting":
            for rank, other in enumerate(crew.members[1:], 1):
                other.send({**crew.order, **message, "rank": rank})
            return None
        if kind == "validated":
            row = message.pop("row")
            return Validated(number, Point(**message), row)
        crew.working -= 1
        if member is crew.members[0]:
            crew.ended = Ended(number, message["reason"], Path(message["prepared"]), message["costs"])
        if crew.working:
            return None
        crew.number = None
        return crew.ended

    def _lost(self, crew: _Crew, number: int, message: Mapping[str, Any] | None) -> Failed | None:
        """A trial that failed with one of its workers. Those that cannot work alone are ended with it.

        None where a member had died before it began: the trial is handed on to another place, once.
        """
        crew.number = None
        if message and len(crew.members) == 1:
            return _failed(number, message)
        if message and not self._is_anybody_gone(crew, self.source.told_late_s):
            failed = _failed(number, message)
        else:
            failed = Failed(number, "its process is gone: killed, or out of memory", "", is_lost=True)
        self._crews.remove(crew)
        self.source.dismiss(crew.members)
        if failed.is_lost and crew.silent and not crew.is_second:
            self._hand(self._idle() or self._hire(), number, crew.order, again=True)
            return None
        return failed

    def _is_anybody_gone(self, crew: _Crew, within_s: float) -> bool:
        """Whether a process has died; an error may be that of a worker which waited for it."""
        deadline = time.monotonic() + within_s
        while True:
            for member in self.source.wait(crew.members, 0.0):
                if member.receive() is None:
                    return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)


def _failed(number: int, message: Mapping[str, Any]) -> Failed:
    return Failed(number, message["error"], message["trace"], full=message["full"])
