"""What stands in Serve's proxy before a request goes to a replica: the short way, a second try, one shape of error.

A replica that dies takes the requests along that it was answering. Predictions change nothing, so those that nobody has
seen a byte of are sent once more, to another replica: whoever asks sees no error. Serve loads `middlewares` in its
proxy when the environment names it (`SETTING`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heliostat.serve.guard import ON_EVERY_ANSWER, request_id_of
from heliostat.serve.lanes import Lanes, Way
from heliostat.serve.refusal import Refusal, late

log = logging.getLogger(__name__)

SETTING = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "heliostat.serve.front.middlewares"}
"""What the environment of Serve's proxy must hold."""

_KEPT_BYTES = 8 << 20
"""A body up to here can be sent a second time; replicas take less than that."""
_PAUSE_S = 0.05
"""Before the second try: by then Serve knows which replica is dead."""
_TRIES = 2
_WHOLE_S = 0.2
_SMALL_BYTES = 256 << 10
"""A body that is larger, or not here by then, goes Serve's way: what is slow or large is bounded in the replica."""
_SERVES_OWN = frozenset({b"x-request-timeout-seconds", b"x-request-disconnect-disabled"})
"""Headers by which a client could tell Serve's proxy to wait for ever, and for one who left."""
_OURS = b"x-content-type-options"
"""A header of every answer that our replicas give, and of none that Serve's proxy gives itself."""


def middlewares() -> list[Middleware]:
    """What Serve's proxy asks for."""
    return [Middleware(Front)]


class Front:
    """ASGI middleware around Serve's proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._lanes = Lanes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, once more where its replica died."""
        if scope["type"] != "http" or scope["path"] == "/-/healthz":
            await self._app(scope, receive, send)
            return
        trial = _Trial(receive, send)
        scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0].lower() not in _SERVES_OWN]}
        if scope["path"].startswith("/-/"):  # the names of all applications, for anybody
            refusal = Refusal(404, "unknown_route", "There is no such route. See /docs.")
        else:
            try:
                tries = await self._by_lane(scope, trial) if scope["method"] == "POST" else _TRIES
                if tries is None or await self._by_serve(scope, trial, tries):
                    return
                refusal = _told(trial.status)
            except TimeoutError:
                refusal = late()
        id = request_id_of(scope)
        refusal.headers |= {"X-Request-ID": id, **ON_EVERY_ANSWER}
        await refusal.response(id)(scope, receive, send)

    async def _by_lane(self, scope: Scope, trial: _Trial) -> int | None:
        """Take the short way, where there is one: None when somebody answered, or how many tries are left.

        Raises TimeoutError for a replica that is silent.
        """
        way, left = await self._lanes.to(scope["path"]), _TRIES
        if way is None or (body := await trial.whole_body()) is None:
            return left
        gone = asyncio.ensure_future(trial.client_left())
        try:
            while way is not None and left:
                try:
                    await self._answered(way, scope, trial, body, gone)
                    return None
                except ConnectionError:
                    log.warning("a replica did not answer; the request goes to another one")
                    left -= 1
                    await asyncio.sleep(_PAUSE_S)
                    way = await self._lanes.to(scope["path"])
        finally:
            gone.cancel()
        trial.again()
        return left

    async def _answered(self, way: Way, scope: Scope, trial: _Trial, body: bytes, gone: asyncio.Future[None]) -> None:
        answer = await way.ask(scope, body, gone)
        if answer is None:
            return
        await trial.send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await trial.send({"type": "http.response.body", "body": answer.body})

    async def _by_serve(self, scope: Scope, trial: _Trial, tries: int) -> bool:
        """Whether somebody answered."""
        if not tries:
            return False
        if await self._try(scope, trial):
            return True
        if tries < _TRIES or trial.status is not None or not trial.can_repeat(scope):
            return False
        log.warning("a replica did not answer; the request goes to another one")
        await asyncio.sleep(_PAUSE_S)
        trial.again()
        return await self._try(scope, trial)

    async def _try(self, scope: MutableMapping[str, Any], trial: _Trial) -> bool:
        """Whether somebody answered, be it with a refusal of ours."""
        try:
            await self._app(dict(scope), trial.receive, trial.send)
        except Exception as error:
            if trial.is_passing:
                raise
            log.warning("Serve's proxy failed: %s", type(error).__name__)
        return trial.is_passing or trial.is_gone


class _Trial:
    """One request on its way: what was read of it, and whether its answer is on its way back."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._read: list[Message] = []
        self._place = 0
        self._bytes = 0
        self.is_passing = False
        """Whether bytes of an answer went to the client."""
        self.is_gone = False
        """Whether the client went away."""
        self.status: int | None = None
        """What Serve's proxy itself wanted to answer; None when it said nothing."""

    def can_repeat(self, scope: Scope) -> bool:
        """Whether it changes nothing and can be sent again whole."""
        is_safe = scope["method"] in ("GET", "HEAD") or scope["path"].startswith(("/v1/", "/v2/"))
        return is_safe and self._bytes <= _KEPT_BYTES

    def again(self) -> None:
        """Begin from the first byte."""
        self._place, self.status = 0, None

    async def whole_body(self) -> bytes | None:
        """The body, where it is small and soon here; None where not, and then `receive` begins with its first byte."""
        body, more = b"", True
        try:
            async with asyncio.timeout(_WHOLE_S):
                while more and len(body) <= _SMALL_BYTES and not self.is_gone:
                    message = await self.receive()
                    body, more = body + message.get("body", b""), message.get("more_body", False)
        except TimeoutError:
            more = True
        if not more and not self.is_gone:
            return body
        self.again()
        return None

    async def client_left(self) -> None:
        """Returns when the client has gone, which has sent all there is."""
        while not self.is_gone:
            await self.receive()

    async def receive(self) -> Message:
        if self._place < len(self._read):
            self._place += 1
            return self._read[self._place - 1]
        message = await self._receive()
        self.is_gone = self.is_gone or message["type"] == "http.disconnect"
        self._bytes += len(message.get("body", b""))
        if self._bytes <= _KEPT_BYTES:
            self._read.append(message)
            self._place = len(self._read)
        else:
            self._read.clear()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self.is_passing:
            headers = {name.lower() for name, _ in message.get("headers", ())}
            if message["status"] >= 400 and _OURS not in headers:
                self.status = int(message["status"])
                return
            self.is_passing = True
        if self.is_passing:
            await self._send(message)


def _told(status: int | None) -> Refusal:
    """The answer of Serve's proxy in our shape: it has its own words, and some name the parts of a deployment."""
    if status == 408:
        return late()
    # One of our applications stands at '/', so that the proxy misses a route (404) only before and after they run.
    message = "No replica can answer now. Try again in 1 s."
    return Refusal(503, "unavailable", message, headers={"Retry-After": "1"})
