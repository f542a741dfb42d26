"""Warm processes on this machine: forks of one that has torch and the training loop imported."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from heliostat.errors import TrainError


class Forked:
    """One fork."""

    def __init__(self, connection: Connection, pid: int) -> None:
        self.connection, self.pid = connection, pid
        self.is_gone = False

    def send(self, message: Mapping[str, Any]) -> None:
        """Tell it; one that is gone hears nothing."""
        with suppress(BrokenPipeError):
            self.connection.send_bytes(json.dumps(message).encode())

    def receive(self) -> dict[str, Any] | None:
        """The next message; None from a process that is gone."""
        try:
            message: dict[str, Any] = json.loads(self.connection.recv_bytes())
        except (EOFError, ConnectionError, OSError):
            self.is_gone = True
            return None
        return message


class Forks:
    """Forks with `threads` threads each. It implements `pool.Source`."""

    told_late_s = 0.0

    def __init__(self, threads: int, log: Path) -> None:
        self.threads, self.log = threads, log
        self._nursery: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

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

    def hire(self, number: int) -> list[Forked]:
        """So many forks. Raises TrainError when they cannot start."""
        return [self._hire() for _ in range(number)]

    def wait(self, processes: Sequence[Forked], timeout_s: float) -> list[Forked]:
        """Those that have something to say, or are gone."""
        by_connection = {each.connection: each for each in processes}
        ready = wait(list(by_connection), timeout_s)
        return [by_connection[each] for each in ready if isinstance(each, Connection)]

    def dismiss(self, processes: Sequence[Forked]) -> None:
        """End them at once."""
        for each in processes:
            if not each.is_gone:  # or else its number may be another's by now
                with suppress(ProcessLookupError):
                    os.kill(each.pid, signal.SIGKILL)
            each.connection.close()

    def close(self) -> None:
        """Kill every process; checkpoints that are being written stay incomplete, as after any kill."""
        if self._nursery is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._nursery.pid, signal.SIGKILL)
            self._nursery.wait()
            self._nursery = None
        if self._control is not None:
            self._control.close()

    def _hire(self) -> Forked:
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
            return Forked(Connection(os.dup(ours.fileno())), int.from_bytes(pid, "little"))
