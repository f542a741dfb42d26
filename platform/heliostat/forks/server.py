"""The fork server: `python -m heliostat.forks.server`, started by `heliostat.forks.fork_server`.

Two generations. The first process imports all but Ray, whose library reads when it is loaded which job and which raylet
it belongs to. For each of these the first forks a second that imports Ray; what a worker becomes is forked from it.
Each has one thread, so that a fork is a whole process, and computes nothing.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from heliostat.forks.worker import Order, become

_GRACE_S = (6.0, 3.0)
"""How long forks may take to end once Ray has ended: second servers, which see their own end first, and workers."""
_KEY_BYTES = 64


class Server:
    """Forks whenever asked, until nobody holds the other end of the pipe `life`."""

    def __init__(
        self, source: socket.socket, life: int, answer: Callable[[socket.socket], Any], grace_s: float
    ) -> None:
        self.grace_s = grace_s
        self.source = source
        self.life = life
        self.answer = answer
        """What is done for one who asks; not None in a process that was forked meanwhile."""
        self.children: set[int] = set()

    def serve(self) -> Any:
        """Return None in the server once all its forks have ended, and in a fork what `answer` gave."""
        woken, wakes = os.pipe()
        for end in (woken, wakes):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        forked = self._until_forked(woken)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (woken, wakes):
            os.close(end)
        if forked is not None:
            self.source.close()
        return forked

    def _until_forked(self, woken: int) -> Any:
        with selectors.DefaultSelector() as ready:
            for each in (self.source.fileno(), self.life, woken):
                ready.register(each, selectors.EVENT_READ)
            while True:
                events = {key.fd for key, _ in ready.select()}
                if woken in events:
                    os.read(woken, 4096)
                    self._reap()
                if self.life in events:
                    self._see_them_end()
                    return None
                if self.source.fileno() in events:
                    connection = _next(self.source)
                    if connection is None:  # the first server died; what it forked may go on
                        ready.unregister(self.source.fileno())
                        continue
                    with connection:
                        forked = self.answer(connection)
                    if forked is not None:
                        return forked

    def fork(self) -> int:
        """The number of the fork, and 0 in it."""
        child = os.fork()
        if child:
            self.children.add(child)
        else:
            self.children.clear()
        return child

    def _reap(self) -> None:
        """Let ended forks go, as Ray takes what still has a number for alive."""
        while self.children:
            child, _ = os.waitpid(-1, os.WNOHANG)
            if not child:
                return
            self.children.discard(child)

    def _see_them_end(self) -> None:
        """Ray has ended, and its workers do so by themselves; those that do not are killed."""
        deadline = time.monotonic() + self.grace_s
        while self.children and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.02)
        for child in self.children:
            os.kill(child, signal.SIGKILL)
        while self.children:
            self._reap()
            time.sleep(0.02)


def _next(source: socket.socket) -> socket.socket | None:
    """The connection of one who asks; None where none can come any more."""
    if source.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return source.accept()[0]
    _, handed, *_ = socket.recv_fds(source, 1, 1)
    return socket.socket(fileno=handed[0]) if handed else None


class First:
    """Hands each who asks on to the second server of its job and raylet."""

    def __init__(self, listener: socket.socket, life: int) -> None:
        self.server = Server(listener, life, self.hand_on, _GRACE_S[0])
        self._seconds: dict[bytes, socket.socket] = {}

    def hand_on(self, connection: socket.socket) -> tuple[bytes, socket.socket] | None:
        """Not None in a new second server: whom it is for, and where it is handed connections from."""
        # Not `settimeout`, which makes it non-blocking for whom it is handed to as well.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 10, 0))
        try:
            key = connection.recv(_KEY_BYTES, socket.MSG_WAITALL)
        except OSError:
            return None
        if len(key) < _KEY_BYTES:
            return None
        for _ in range(2):
            if key not in self._seconds:
                ours, theirs = socket.socketpair()
                if not self.server.fork():
                    for each in (ours, *self._seconds.values()):
                        each.close()
                    return key, theirs
                theirs.close()
                self._seconds[key] = ours
            try:
                socket.send_fds(self._seconds[key], [b"1"], [connection.fileno()])
                return None
            except OSError:  # it has died
                self._seconds.pop(key).close()
        return None


class Second:
    """Forks workers, if what was imported allows it."""

    def __init__(self, source: socket.socket, life: int) -> None:
        self.server = Server(source, life, self.fork_worker, _GRACE_S[1])
        self.can_fork = draws_differ()

    def fork_worker(self, connection: socket.socket) -> Order | None:
        """Not None in the fork: what it is to be."""
        order = _read(connection)
        if order is None:
            return None
        child = self.server.fork() if self.can_fork and can_be_forked() else None
        if child == 0:
            return order
        for stream in order.streams:
            os.close(stream)
        if child is not None:
            try:
                connection.send(b"1")
            except OSError:  # who asked has died meanwhile: nobody waits for the fork, or ends it
                os.kill(child, signal.SIGKILL)
        return None


def can_be_forked() -> bool:
    """Whether nothing that was imported stands in the way: better no answer, and a process of its own.

    Threads would be missing in a fork, and CUDA cannot be used in one when its library was loaded before.
    """
    has_cuda = "/libcuda.so" in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    return not has_cuda and len(list(Path("/proc/self/task").iterdir())) == 1


def draws_differ() -> bool:
    """Whether forks draw other random names than each other.

    Ray's library seeds its generator at the first draw: after one, forks would give the same names to their objects.
    """
    if "ray" not in sys.modules:
        return True
    names = []
    for _ in range(2):
        reads, writes = os.pipe()
        child = os.fork()
        if not child:
            os.write(writes, sys.modules["ray"].ObjectRef.from_random().binary())
            os._exit(0)
        os.close(writes)
        names.append(os.read(reads, 1024))
        os.close(reads)
        os.waitpid(child, 0)
    if names[0] == names[1]:
        print("no forks of Ray's workers: what was imported ahead has drawn of Ray's random names", file=sys.stderr)
    return names[0] != names[1]


def _read(connection: socket.socket) -> Order | None:
    """What is asked for; None where whoever asked has gone meanwhile."""
    streams: list[int] = []
    try:
        size, streams, *_ = socket.recv_fds(connection, 8, 3)
        data = connection.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
        if len(streams) == 3 and len(data) == int.from_bytes(size, "big") and not _is_gone(connection):
            return Order(json.loads(data), list(streams))
    except OSError:
        pass
    for stream in streams:
        os.close(stream)
    return None


def _is_gone(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False


@contextmanager
def named_by_the_system() -> Iterator[None]:
    """Ray names each class of actors when it is defined; here with a number that leaves Ray's generator untouched."""
    import ray.actor

    actor: Any = ray.actor
    kind = actor.ActorClassID
    actor.ActorClassID = SimpleNamespace(from_random=lambda: kind(os.urandom(kind.size())))
    try:
        yield
    finally:
        actor.ActorClassID = kind


def import_ahead(modules: Sequence[str]) -> None:
    """Import what there is of them, for all forks."""
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # who needs it says so better
            print(f"{name} was not imported ahead: {error!r}", file=sys.stderr, flush=True)
    gc.collect()
    gc.freeze()  # or else each fork's first collection copies the pages of all objects


def main(listener: str, life: str, folder: str, modules: Sequence[str]) -> None:
    """Import, then serve; in a fork, be what was asked for."""
    split = modules.index("--")
    import_ahead(modules[:split])
    if "ray" in sys.modules:
        sys.exit("no forks of Ray's workers: Ray was imported before it was known which one they belong to")
    found = First(socket.socket(fileno=int(listener)), int(life)).server.serve()
    if found:
        key, handed = found
        os.environ["RAY_JOB_ID"], os.environ["RAY_RAYLET_PID"] = key.decode().split()
        with named_by_the_system() if modules[split + 1 :] else nullcontext():
            import_ahead(modules[split + 1 :])
        order = Second(handed, int(life)).server.serve()
        if order:
            os.close(int(life))
            become(order)
            return
    else:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
