"""How `heliostat serve status`, `update`, `rollback` and `stop` reach a deployment that runs.

The process that serves leaves a note in Heliostat's home with the socket at which it listens; only its owner can open
that. It does one thing after the other, and tells how it stands meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from heliostat.errors import HeliostatError, ServeError
from heliostat.home import home

_MOST_BYTES = 1 << 20


class Errand:
    """Something that another terminal asked for; told what happens, and last what came of it."""

    def __init__(self, order: dict[str, Any], connection: socket.socket) -> None:
        self.order = order
        self._connection = connection

    def say(self, line: str) -> None:
        """One line for the one who asked."""
        self._send({"said": line})

    def done(self, result: Any = None) -> None:
        """It is done."""
        self._send({"done": result})

    def failed(self, error: HeliostatError) -> None:
        """It cannot be done."""
        self._send({"error": str(error)})

    def _send(self, value: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # who went away is told nothing
            self._connection.sendall(json.dumps(value).encode() + b"\n")
        if "said" not in value:
            self._connection.close()


class Desk:
    """Where errands come in."""

    def __init__(self, listener: socket.socket, status: Callable[[], dict[str, Any]]) -> None:
        self._listener = listener
        self._status = status
        self._errands: queue.Queue[Errand] = queue.Queue()

    def next(self, timeout_s: float) -> Errand | None:
        """What is to be done next; None when nobody asked for anything meanwhile."""
        with contextlib.suppress(queue.Empty):
            return self._errands.get(timeout=timeout_s)
        return None

    def listen(self) -> None:
        """Take errands in until the listener is closed."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._take, args=(connection,), daemon=True).start()

    def _take(self, connection: socket.socket) -> None:
        connection.settimeout(10.0)
        try:
            order = json.loads(_line(connection))
            errand = Errand(dict(order), connection)
        except (OSError, ValueError, TypeError):
            connection.close()
            return
        if errand.order.get("do") != "status":
            self._errands.put(errand)
            return
        try:
            errand.done(self._status())
        except Exception as error:  # Ray's own, while it starts or ends
            errand.failed(ServeError(f"the deployment cannot tell now ({type(error).__name__})."))


def _line(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as file:
        return file.readline(_MOST_BYTES)


@contextlib.contextmanager
def desk(url: str, status: Callable[[], dict[str, Any]]) -> Iterator[Desk]:
    """A desk that other terminals of this user find, until the context ends."""
    folder = Path(tempfile.mkdtemp(prefix="heliostat-serve-"))  # its owner's alone; a home's path may be too long
    note = _notes() / f"{os.getpid()}.json"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(8)
        found = Desk(listener, status)
        threading.Thread(target=found.listen, name="heliostat-desk", daemon=True).start()
        note.parent.mkdir(parents=True, exist_ok=True)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        note.write_text(
            json.dumps({"url": url, "socket": str(folder / "socket"), "pid": os.getpid(), "since": started})
        )
        note.chmod(0o600)
        try:
            yield found
        finally:
            note.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            listener.shutdown(socket.SHUT_RDWR)


class Running(NamedTuple):
    """A deployment that runs on this machine, from this home."""

    url: str
    socket: str
    pid: int
    since: str

    def ask(self, order: dict[str, Any], on_line: Callable[[str], None] = lambda line: None) -> Any:
        """Have something done, and hear of it. Raises ServeError with the reason when it cannot be."""
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(self.socket)
                connection.sendall(json.dumps(order).encode() + b"\n")
                with connection.makefile("rb") as lines:
                    for line in lines:
                        told = json.loads(line)
                        if "said" in told:
                            on_line(told["said"])
                        elif "error" in told:
                            raise ServeError(told["error"])
                        else:
                            return told["done"]
            except OSError as error:
                raise ServeError(f"the deployment at {self.url} does not answer ({type(error).__name__}).") from None
        raise ServeError(f"the deployment at {self.url} ended meanwhile.")

    def wait_for_end(self, timeout_s: float) -> bool:
        """Whether its process ended in time."""
        deadline = time.monotonic() + timeout_s
        while _is_alive(self.pid):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


def running() -> list[Running]:
    """The deployments that run from this home; notes of those that died are removed."""
    found = []
    for path in sorted(_notes().glob("*.json")):
        try:
            each = Running(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue
        if _is_alive(each.pid) and Path(each.socket).exists():
            found.append(each)
        else:
            path.unlink(missing_ok=True)
    return found


def the_one(port: int | None = None) -> Running:
    """The deployment that runs (on this port). Raises ServeError when there is none, or more than one."""
    found = [each for each in running() if port is None or each.url.endswith(f":{port}")]
    if not found:
        where = f" on port {port}" if port is not None else ""
        raise ServeError(f"no deployment runs{where} from {home()}. Start one, as with: heliostat serve NAME@champion")
    if len(found) > 1:
        raise ServeError(f"{len(found)} deployments run: {', '.join(each.url for each in found)}. Say which: --port.")
    return found[0]


def _notes() -> Path:
    return home() / "serving"


def _is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
