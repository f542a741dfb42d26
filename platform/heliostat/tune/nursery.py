"""A process that has torch and the training loop imported, and forks one child for each place of a sweep.

    python -m heliostat.tune.nursery <socket>

For each file descriptor that comes over the socket, the other end of a child's connection, it forks and answers with
the child's process id. It computes nothing itself, so that no thread is lost in a fork. When its starter is gone, by
whatever signal, the socket closes, and it ends with all of its children.
"""

from __future__ import annotations

import os
import signal
import socket
import sys


def main() -> None:
    """Fork children until the socket closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which ends everything here
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children leave no zombies
    _load()
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not descriptors:
            os.killpg(0, signal.SIGKILL)  # its own group: itself and every child
        child = os.fork()
        if child == 0:
            control.close()
            _work(descriptors[0])
        os.close(descriptors[0])
        control.sendall(child.to_bytes(8, "little"))


def _load() -> None:
    """Import what every trial needs."""
    import heliostat.train.loop
    import heliostat.train.optimizer
    import heliostat.tune.place  # noqa: F401


def _work(descriptor: int) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    from multiprocessing.connection import Connection

    from heliostat.tune.place import Wire, serve

    try:
        serve(Wire(Connection(descriptor)))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
