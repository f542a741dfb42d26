"""The short way to a replica: requests come from Serve's proxy over a Unix socket, and not by calls of actors.

Serve hands a request on in 5 ms of CPU, this way takes a twentieth. A replica opens its lane once its model answers its
golden requests, in a folder that only this user may enter; `ROOT` in the environment names it. Where it is missing (a
Ray that somebody else started), and for whatever is not a whole small request, there is Serve's own way.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message

from heliostat.serve.frames import ASK, CLOSING, FAILED, HELLO, LEFT, Frames, as_bytes, as_text

ROOT = "HELIOSTAT_LANES"
"""The folder of all lanes of a deployment, in the environment of its processes."""
BY_LANE = "heliostat.by_lane"
"""In the scope of a request that came this way. No client can write there."""
_MOST_PATH = 100
"""Bytes that the path of a Unix socket may have on every system, less a few."""
_numbers = itertools.count()


def lanes_of(app: str) -> Path | None:
    """The folder with the lanes of an application's replicas; None where there are none."""
    root = os.environ.get(ROOT)
    return Path(root) / hashlib.sha256(app.encode()).hexdigest()[:12] if root else None


class Lane:
    """A replica's end. `turn` it on and off; requests that it has are answered before it is off."""

    def __init__(self, app: ASGIApp, name: str, timeout_s: float) -> None:
        self._app = app
        self._timeout_s = timeout_s
        folder = lanes_of(name)
        self._path = folder / f"{os.getpid()}-{next(_numbers)}" if folder else None
        self._server: asyncio.Server | None = None
        self._ends: set[_End] = set()
        self._turning = asyncio.Lock()

    async def turn(self, is_on: bool) -> None:
        """Open it, or close it."""
        async with self._turning:
            if is_on and self._server is None:
                await self._open()
            elif not is_on and self._server is not None:
                await self._close()

    async def _open(self) -> None:
        if self._path is None or len(os.fsencode(self._path)) > _MOST_PATH:
            return
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        staged = self._path.with_suffix(".new")  # the proxy connects to what it sees: it shall see what listens
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _End(self._app, self._timeout_s, self._ends), str(staged))
        staged.rename(self._path)

    async def _close(self) -> None:
        assert self._server is not None
        assert self._path is not None
        self._path.unlink(missing_ok=True)
        self._server.close()
        self._server = None
        for end in self._ends:
            end.put(0, CLOSING)
        await asyncio.sleep(0)
        if tasks := {task for end in self._ends for task in end.tasks.values()}:
            await asyncio.wait(tasks, timeout=self._timeout_s)
        for end in list(self._ends):
            end.close()


class _End(Frames):
    """One connection of a proxy."""

    def __init__(self, app: ASGIApp, timeout_s: float, ends: set[_End]) -> None:
        super().__init__()
        self._app = app
        self._timeout_s = timeout_s
        self._ends = ends
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self._gone: dict[int, asyncio.Event] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._ends.add(self)
        self.put(0, HELLO, self._timeout_s)

    def ended(self) -> None:
        self._ends.discard(self)
        for gone in self._gone.values():
            gone.set()

    def came(self, number: int, kind: int, head: bytes, body: bytes) -> None:
        if kind == ASK:
            self._gone[number] = asyncio.Event()
            self.tasks[number] = asyncio.get_running_loop().create_task(self._answer(number, head, body))
        elif kind == LEFT and number in self._gone:
            self._gone[number].set()

    async def _answer(self, number: int, head: bytes, body: bytes) -> None:
        gone, bodies, answer = self._gone[number], [body], _Answer()

        async def receive() -> Message:
            if bodies:
                return {"type": "http.request", "body": bodies.pop(), "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        try:
            await self._app(_scope(*json.loads(head)), receive, answer.send)
        except Exception:  # whatever it is, nobody has seen an answer: the proxy looks for another way
            answer.status = 0
        finally:
            del self.tasks[number], self._gone[number]
        with suppress(ConnectionError):
            self.put(number, answer.status or FAILED, as_text(answer.headers), b"".join(answer.parts))


class _Answer:
    """What an application sends, kept until it is whole."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.parts: list[bytes] = []

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = int(message["status"]), list(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self.parts.append(message.get("body", b""))


def _scope(method: str, path: str, query: str, headers: list[list[str]]) -> dict[str, Any]:
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": method,
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": query.encode("latin-1"),
        "headers": as_bytes(headers), BY_LANE: True,
    }  # fmt: skip
