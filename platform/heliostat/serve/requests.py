"""What every route does with a request before and while it answers: its type, its body, and whether anybody waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from heliostat.serve.limits import Limits
from heliostat.serve.refusal import Refusal

T = TypeVar("T")


async def body_of(request: Request, limits: Limits, *, may_be_binary: bool = False) -> bytes:
    """The whole body of a request that says it is JSON. Raises Refusal: 415, 408, 413.

    With `may_be_binary` it may also say that it is bytes, or nothing, as clients of the Open Inference Protocol do.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # It also keeps a foreign web page out: a browser sends these types only where CORS allows it, and an origin always.
    is_bytes = kind == "application/octet-stream" or (not kind and "origin" not in request.headers)
    if kind != "application/json" and not (may_be_binary and is_bytes):
        raise Refusal(415, "not_json", "Send the header 'Content-Type: application/json'.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "compressed", "A body comes as it is, without Content-Encoding.")
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            return await request.body()
    except TimeoutError:
        raise Refusal(
            408, "body_timeout", "The body took too long to arrive.", headers={"Connection": "close"}
        ) from None
    except ClientDisconnect:
        raise _gone() from None


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """What `work` gives; it is cancelled when the client goes away. Raises Refusal then."""
    answer = asyncio.ensure_future(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise _gone()
        return answer.result()
    finally:
        answer.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _gone() -> Refusal:
    # Nobody reads this answer; the status (of nginx) is for the metrics.
    return Refusal(499, "client_closed_request", "The client went away.")
