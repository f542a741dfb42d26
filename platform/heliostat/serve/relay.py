"""A request handed on to the application of one model, where several share an address: as plain values that travel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from fastapi import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message

from heliostat.serve.guard import RELAYED

_CARRIED = frozenset({"content-encoding", "content-type", "inference-header-content-length", "origin", "x-client-id"})
"""Headers that a model's routes read; what the guard reads was read by the index."""
_RETURNED = frozenset({"content-type", "retry-after", "inference-header-content-length", "x-model"})


class Relayed(NamedTuple):
    """A request on its way to a model."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    id: str
    """The request's id at the index."""
    key: str
    """The name of the key that it came with."""


class Reply(NamedTuple):
    """What came of it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def response(self) -> Response:
        """The same, as the index answers it."""
        return Response(self.body, self.status, headers=dict(self.headers))


Relay = Callable[[str, Relayed], Awaitable[Reply]]
"""(model, request) -> its reply."""


def relayed(request: Request, body: bytes) -> Relayed:
    """A request that the guard of the index has let in."""
    headers = [(name, value) for name, value in request.headers.items() if name in _CARRIED]
    scope = request.scope
    return Relayed(request.method, scope["path"], headers, body, scope["heliostat.id"], scope.get("heliostat.key", ""))


async def ask(app: ASGIApp, request: Relayed) -> Reply:
    """Put a request to an application in this process."""
    headers = [*request.headers, ("x-request-id", request.id)]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": request.method,
        "path": request.path, "raw_path": request.path.encode(), "root_path": "", "query_string": b"",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        RELAYED: True, "heliostat.key": request.key,
    }  # fmt: skip
    bodies: list[Message] = [{"type": "http.request", "body": request.body, "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Message:
        if bodies:
            return bodies.pop()
        await asyncio.Event().wait()  # the index watches the client, and cancels this call when it leaves
        raise AssertionError("nothing sets this event")

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    answered = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in sent[0].get("headers", ())]
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return Reply(sent[0]["status"], [pair for pair in answered if pair[0] in _RETURNED], body)
