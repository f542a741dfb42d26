"""Trials of one worker in a pool of warm processes on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from heliostat.errors import TrainError
from heliostat.run import Run
from heliostat.train.policy import Continue, Stop
from heliostat.tune.records import Point
from heliostat.tune.trials import Ended, Event, Failed, Order, Rehearsal, Validated, told


@dataclass
class _Place:
    """One warm process."""

    connection: Connection
    pid: int
    number: int | None = None
    """The trial that it works on."""


class Pool:
    """`size` warm processes with `threads` threads each. It implements `trials.Trials`."""

    def __init__(self, size: int, threads: int, log: Path) -> None:
        self.size, self.threads, self.log = size, threads, log
        self._nursery: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._places: list[_Place] = []

    def start(self) -> None:
        """Start the process that forks the others; what it imports takes it some seconds, which nobody waits for."""
        ours, theirs = socket.socketpair()
        threads = str(self.threads)
        paths = os.pathsep.join(path for path in sys.path if path)
        with theirs, self.log.open("ab") as log:
            self._nursery = subprocess.Popen(
                [sys.executable, "-m", "heliostat.tune.nursery", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
                start_new_session=True,  # Ctrl-C is for the driver; and the group can be ended as one
            )
        self._control = ours

    def rehearse(self, run: Run, prepared: Path) -> list[Rehearsal]:
        """Build the run once in every place. Raises TrainError with what went wrong in one."""
        while len(self._places) < self.size:
            self._hire()
        order = {"do": "rehearse", "run": run.dump(), "prepared": str(prepared), "threads": self.threads}
        for place in self._places:
            _send(place, order)
        return [self._rehearsed(place) for place in self._places]

    @property
    def free(self) -> int:
        """Places without a trial."""
        return self.size - sum(place.number is not None for place in self._places)

    def begin(self, order: Order) -> None:
        """Hand a trial to a place that is free."""
        place = next((place for place in self._places if place.number is None), None) or self._hire()
        place.number = order.number
        prepared = None if order.prepared is None else str(order.prepared)
        message = {"do": "train", "run": order.run.dump(), "folder": str(order.folder), "prepared": prepared}
        _send(place, {**message, "threads": self.threads, "measures": list(order.measures)})

    def events(self, timeout_s: float) -> list[Event]:
        """What the places have said; one whose process is gone has failed, and another takes its place when asked."""
        busy = {place.connection: place for place in self._places if place.number is not None}
        return [self._event(busy[each]) for each in wait(list(busy), timeout_s) if isinstance(each, Connection)]

    def answer(self, number: int, decision: Continue | Stop) -> None:
        """Let the trial go on, or end."""
        _send(next(place for place in self._places if place.number == number), told(decision))

    def close(self) -> None:
        """Kill every process; checkpoints that are being written stay incomplete, as after any kill."""
        if self._nursery is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._nursery.pid, signal.SIGKILL)
            self._nursery.wait()
            self._nursery = None
        if self._control is not None:
            self._control.close()
        while self._places:
            self._places.pop().connection.close()

    def _hire(self) -> _Place:
        assert self._control
        ours, theirs = socket.socketpair()
        with ours, theirs:
            try:
                socket.send_fds(self._control, [b"."], [theirs.fileno()])
                pid = self._control.recv(8)
            except OSError:
                pid = b""
            if not pid:
                raise TrainError(f"the processes of the sweep cannot start. See {self.log}.")
            place = _Place(Connection(os.dup(ours.fileno())), int.from_bytes(pid, "little"))
        self._places.append(place)
        return place

    def _rehearsed(self, place: _Place) -> Rehearsal:
        message = _received(place)
        if message is None or message["is"] == "failed":
            what = message["error"] if message else "its process is gone: killed, or out of memory"
            raise TrainError(f"a trial cannot be built: {what}. See {self.log}.")
        message.pop("is")
        return Rehearsal(**{**message, "scores": tuple(message["scores"])})

    def _event(self, place: _Place) -> Event:
        number, message = place.number, _received(place)
        assert number is not None
        if message is None:
            self._places.remove(place)
            place.connection.close()
            return Failed(number, "its process is gone: killed, or out of memory", "")
        kind = message.pop("is")
        if kind == "validated":
            row = message.pop("row")
            return Validated(number, Point(**message), row)
        place.number = None
        if kind == "failed":
            return Failed(number, message["error"], message["trace"])
        return Ended(number, message["reason"], Path(message["prepared"]), message["costs"])


def _send(place: _Place, message: dict[str, Any]) -> None:
    with suppress(BrokenPipeError):  # `events` will find it gone
        place.connection.send_bytes(json.dumps(message).encode())


def _received(place: _Place) -> dict[str, Any] | None:
    """The next message; None from a process that is gone."""
    try:
        message: dict[str, Any] = json.loads(place.connection.recv_bytes())
    except (EOFError, ConnectionError, OSError):
        return None
    return message
