"""The middleware around a model's routes: request ids, hosts, the token, the size of bodies, one error shape."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable
from typing import NamedTuple

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heliostat.serve.limits import Limits
from heliostat.serve.refusal import Refusal
from heliostat.serve.token import is_right

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
"""What a probe may ask without a token; both answer with a single word."""

RELAYED = "heliostat.relayed"
"""In the scope of a request that the guard of the index has let in. No client can write there."""

_PLAIN_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Access(NamedTuple):
    """Who may ask."""

    token_hash: str | None = None
    """SHA-256 of the bearer token; None asks for none."""
    hosts: frozenset[str] | None = None
    """Names that a Host header may hold; None allows any."""


def _request_id(scope: Scope) -> str:
    """The id that the client (or the proxy before us) gave, when it is a plain word; else a fresh one."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _PLAIN_WORD.fullmatch(given) else uuid.uuid4().hex


class Guard:
    """ASGI middleware: nothing reaches the routes unchecked, and no answer leaves in another shape."""

    def __init__(
        self, app: ASGIApp, *, limits: Limits, access: Access, answered: Callable[[Scope, int, float], None]
    ) -> None:
        self._app = app
        self._limits = limits
        self._access = access
        self._answered = answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(send, _request_id(scope))
        scope["heliostat.arrived"], scope["heliostat.id"] = exchange.started, exchange.id
        try:
            if not scope.get(RELAYED):
                self._check(scope)
            await self._app(scope, _counted(receive, self._limits.max_body_bytes), exchange.send)
        except Exception as error:
            if exchange.status:  # the head is out: the connection can only be cut
                raise
            refusal = error if isinstance(error, Refusal) else unexpected(error, exchange.id)
            scope["heliostat.error"] = refusal.code
            await refusal.response(exchange.id, scope["path"])(scope, receive, exchange.send)
        finally:
            self._answered(scope, exchange.status, time.monotonic() - exchange.started)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self._access.hosts is not None and _host(headers.get("host", "")) not in self._access.hosts:
            raise Refusal(421, "unknown_host", "This deployment does not answer to the name in the Host header.")
        if self._access.token_hash is not None and scope["path"] not in OPEN_PATHS:
            self._check_token(headers, self._access.token_hash)
        length = headers.get("content-length")
        if length is not None and not (length.isascii() and length.isdigit()):
            raise Refusal(400, "invalid_length", "The Content-Length header is no number.")
        if length is not None and (len(length) > 18 or int(length) > self._limits.max_body_bytes):
            raise _too_large(self._limits.max_body_bytes)

    def _check_token(self, headers: Headers, token_hash: str) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not is_right(given.strip(), token_hash):
            message = "This deployment asks for a token: send the header 'Authorization: Bearer TOKEN'."
            raise Refusal(401, "unauthorized", message, headers={"WWW-Authenticate": "Bearer"})


class _Exchange:
    """One request on its way: when it came, under which id, and what was answered (0: nothing yet)."""

    def __init__(self, send: Send, id: str) -> None:
        self._send = send
        self.id = id
        self.started = time.monotonic()
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.id
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Cache-Control"] = "no-store"
        await self._send(message)


def _host(header: str) -> str:
    """The name in a Host header, without its port."""
    return re.sub(r":\d*$", "", header.strip().lower())


def _counted(receive: Receive, most: int) -> Receive:
    """`receive`, stopping a body that grows past `most` bytes while it still arrives."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise _too_large(most)
        return message

    return counted


def _too_large(most: int) -> Refusal:
    # The rest of the body will not be read, so the connection cannot be used again.
    return Refusal(413, "body_too_large", f"A body has {most} bytes at most.", headers={"Connection": "close"})


def unexpected(error: Exception, id: str) -> Refusal:
    """What is told of an error that nobody foresaw; the log names its type and place."""
    # Neither the message nor the traceback's values go into the log: they may hold the text of a record.
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
    log.error("request %s failed: %s at %s", id, type(error).__name__, where)
    return Refusal(500, "internal_error", "Something failed here. Name the request id when you report it.")
