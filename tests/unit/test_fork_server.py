"""The fork server without Ray: who asked may die before it is answered."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from heliostat.forks import server
from heliostat.forks.worker import Order


def test_who_died_before_it_was_answered_takes_its_fork_along_and_not_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asks, answers = socket.socketpair()
    asks.close()
    streams = [os.dup(0) for _ in range(3)]
    monkeypatch.setattr(server, "can_be_forked", lambda: True)
    monkeypatch.setattr(server, "_read", lambda _: Order({}, streams))
    fork = subprocess.Popen(["sleep", "60"])
    second: Any = object.__new__(server.Second)
    second.server, second.can_fork = SimpleNamespace(fork=lambda: fork.pid), True
    with answers:
        assert second.fork_worker(answers) is None
    assert fork.wait(10) == -signal.SIGKILL
