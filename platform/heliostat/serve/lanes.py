"""The proxy's end of the lanes: which replicas there are, and which of them gets the next request."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from starlette.types import Scope

from heliostat.serve.frames import ASK, CLOSING, FAILED, HELLO, LEFT, Frames, as_bytes, as_text
from heliostat.serve.lane import lanes_of

_LOOK_S = 1.0
"""How often a folder is read although it says that nothing has changed: its clock may be a coarse one."""
_GREETING_S = 1.0
_GRACE_S = 5.0
"""A replica answers in its own time, if only that it is late; one that is silent for this much longer is given up."""
_MODEL = re.compile(r"/v1/models/([^/:]+):predict|/v2/models/([^/]+)(?:/versions/[^/]+)?/infer")


class ByLane(NamedTuple):
    """An answer."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Way(Frames):
    """A connection to one replica."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = False
        self.timeout_s = 0.0
        self.greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting: dict[int, asyncio.Future[ByLane]] = {}
        self._numbers = itertools.count(1)

    def came(self, number: int, kind: int, head: bytes, body: bytes) -> None:
        """A frame is here."""
        if kind == HELLO:
            self.timeout_s, self.is_open = float(json.loads(head)), True
            self.greeted.set_result(None)
        elif kind == CLOSING:
            self.is_open = False
        elif (answer := self.waiting.pop(number, None)) and not answer.done():
            if kind == FAILED:
                answer.set_exception(ConnectionError("the replica gave no answer"))
            else:
                answer.set_result(ByLane(kind, as_bytes(json.loads(head)), body))

    def ended(self) -> None:
        """The connection is gone, and with it what it was to answer."""
        self.is_open = False
        futures: list[asyncio.Future[Any]] = [self.greeted, *self.waiting.values()]
        for future in futures:
            if not future.done():
                future.set_exception(ConnectionError("the replica is gone"))
                future.exception()  # somebody waits for it, or nobody wants to hear of it
        self.waiting.clear()

    async def ask(self, scope: Scope, body: bytes, gone: asyncio.Future[None]) -> ByLane | None:
        """The replica's answer; None when `gone` came first. Raises ConnectionError, and TimeoutError for a silence."""
        if not self.is_open:  # since it was chosen the body had to come: nobody would tell of an end that was before
            raise ConnectionError("the replica is gone")
        number = next(self._numbers)
        answer: asyncio.Future[ByLane] = asyncio.get_running_loop().create_future()
        self.waiting[number] = answer
        query = scope.get("query_string", b"").decode("latin-1")
        self.put(number, ASK, [scope["method"], scope["path"], query, as_text(scope["headers"])], body)
        try:
            await asyncio.wait((answer, gone), timeout=self.timeout_s + _GRACE_S, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if gone.done():
                return None
            raise TimeoutError
        finally:
            if self.waiting.pop(number, None) is not None:
                self.put(number, LEFT)
                answer.cancel()


class Lanes:
    """The ways to the replicas of every model that has any."""

    def __init__(self) -> None:
        self._ways: dict[str, dict[str, Way]] = {}
        self._seen: dict[str, tuple[int, float]] = {}
        self._looking = asyncio.Lock()
        self._looks: set[asyncio.Task[None]] = set()

    async def to(self, path: str) -> Way | None:
        """The way to the replica that has the least at hand, of the model that a path asks to predict; or None."""
        found = _MODEL.fullmatch(path)
        name = found and (found[1] or found[2])
        folder = lanes_of(name) if name else None
        if not name or folder is None:
            return None
        try:
            changed = folder.stat().st_mtime_ns
        except OSError:
            return None
        seen, looked = self._seen.get(name, (-1, 0.0))
        if seen != changed or monotonic() - looked > _LOOK_S:
            self._seen[name] = (changed, monotonic())
            look = asyncio.get_running_loop().create_task(self._look(name, folder))
            self._looks.add(look)
            look.add_done_callback(self._looks.discard)
            if not self._open(name):
                await look
        return min(self._open(name), key=lambda way: len(way.waiting), default=None)

    def _open(self, name: str) -> list[Way]:
        return [way for way in self._ways.get(name, {}).values() if way.is_open]

    async def _look(self, name: str, folder: Path) -> None:
        """Connect to the replicas that are new, and forget those that are gone."""
        async with self._looking:
            ways = self._ways.setdefault(name, {})
            there = {path.name: path for path in folder.glob("*") if not path.suffix}
            for gone in [each for each, way in ways.items() if not way.is_open and each not in there]:
                del ways[gone]
            for new in [each for each in there if each not in ways or not ways[each].is_open]:
                with suppress(OSError, TimeoutError):
                    ways[new] = await _connected(there[new])


async def _connected(path: Path) -> Way:
    loop = asyncio.get_running_loop()
    try:
        _, way = await loop.create_unix_connection(Way, str(path))
    except ConnectionRefusedError:  # it was killed, and left this behind
        path.unlink(missing_ok=True)
        raise
    try:
        async with asyncio.timeout(_GREETING_S):
            await asyncio.shield(way.greeted)
    except TimeoutError:  # a frozen replica is tried again and again: it shall not gather connections
        way.close()
        raise
    return way
