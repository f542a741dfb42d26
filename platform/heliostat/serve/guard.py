"""The middleware around a model's routes: request ids, hosts, keys, rates, the size of bodies, one error shape."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heliostat.serve.keys import KeyRing
from heliostat.serve.limits import Limits
from heliostat.serve.rates import Allowance, Buckets, Grant, Take
from heliostat.serve.refusal import Refusal

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
"""What a probe may ask without a key; each answers with a word or two."""

ON_EVERY_ANSWER = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}

RELAYED = "heliostat.relayed"
"""In the scope of a request that the guard of the index has let in. No client can write there."""

_PLAIN_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Access(NamedTuple):
    """Who may ask. It holds hashes and paths, no key: it travels with the deployment."""

    token_hash: str | None = None
    """SHA-256 of the one bearer token; None asks for none."""
    hosts: frozenset[str] | None = None
    """Names that a Host header may hold; None allows any."""
    keys_file: str | None = None
    """The file with the hashes of keys (`heliostat.serve.keys`), at the same path on every node; None for none."""
    per_minute: int | None = None
    """Requests a minute that each key may send to all models together; None for any number."""

    @property
    def needs_key(self) -> bool:
        """Whether a request must hold a key."""
        return self.token_hash is not None or self.keys_file is not None

    def ring(self) -> KeyRing | None:
        """The keys that are taken; None takes whoever comes. Raises RunError and ServeError for a file that is none."""
        if self.keys_file is not None:
            return KeyRing.at(Path(self.keys_file))
        return KeyRing.of_token(self.token_hash) if self.token_hash is not None else None


def request_id_of(scope: Scope) -> str:
    """The id that the client (or the proxy before us) gave, when it is a plain word; else a fresh one."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _PLAIN_WORD.fullmatch(given) else uuid.uuid4().hex


class Guard:
    """ASGI middleware: nothing reaches the routes unchecked, and no answer leaves in another shape."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        access: Access,
        answered: Callable[[Scope, int, float], None],
        take: Take | None = None,
        open_paths: frozenset[str] = OPEN_PATHS,
    ) -> None:
        self._app = app
        self._limits = limits
        self._access = access
        self._answered = answered
        self._ring = access.ring()
        self._allowance = Allowance(take or _alone())
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(send, request_id_of(scope))
        scope["heliostat.arrived"], scope["heliostat.id"] = exchange.started, exchange.id
        scope.setdefault("heliostat.key", "")  # the name of the key, where one is asked for: what logs may say
        try:
            if not scope.get(RELAYED):
                self._check(scope)
                await self._count(scope)
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
            raise Refusal(400, "unknown_host", "This deployment does not answer to the name in the Host header.")
        if self._ring is not None and scope["path"] not in self._open_paths:
            self._check_key(scope, headers, self._ring)
        length = headers.get("content-length")
        if length is not None and not (length.isascii() and length.isdigit()):
            raise Refusal(400, "invalid_length", "The Content-Length header is no number.")
        if length is not None and (len(length) > 18 or int(length) > self._limits.max_body_bytes):
            raise _too_large(self._limits.max_body_bytes)

    def _check_key(self, scope: Scope, headers: Headers, ring: KeyRing) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        key = ring.holder(given.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            message = "This deployment asks for a key: send the header 'Authorization: Bearer KEY'."
            raise Refusal(401, "unauthorized", message, headers={"WWW-Authenticate": "Bearer"})
        scope["heliostat.key"] = key.name
        scope["heliostat.per_minute"] = key.per_minute or self._access.per_minute

    async def _count(self, scope: Scope) -> None:
        """Take a request of its key; what asks no model is not counted."""
        per_minute = scope.get("heliostat.per_minute")
        if per_minute is None or scope["method"] != "POST":
            return
        if seconds := await self._allowance.spend(scope["heliostat.key"], per_minute):
            message = f"This key may send {per_minute} requests a minute. Try again in {seconds} s."
            raise Refusal(429, "too_many_requests", message, headers={"Retry-After": str(seconds)})


def _alone() -> Take:
    """Buckets of this process, where there is no other."""
    buckets = Buckets()

    async def take(name: str, per_minute: int, wanted: int) -> Grant:
        return buckets.take(name, per_minute, wanted)

    return take


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
            for name, value in ON_EVERY_ANSWER.items():
                headers[name] = value
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
