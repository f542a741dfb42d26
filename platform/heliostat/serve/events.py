"""An answer as server-sent events: `piece` for each bit of text, then `answer` with the whole row, or `error`."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

EVENTS_TYPE = "text/event-stream"

_BREAKS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
"""Line breaks to some readers, which JSON leaves as they are."""

Events = AsyncGenerator[str, None]


def event(name: str, data: Any) -> str:
    """One event, its data in one line."""
    line = json.dumps(data, ensure_ascii=False).translate(_BREAKS)
    return f"event: {name}\ndata: {line}\n\n"


class EventStream(StreamingResponse):
    """Events that are sent as they come, `first` before the others.

    However it ends, the events are closed: nobody writes on for a client who left.
    """

    def __init__(self, first: str, events: Events) -> None:
        self._first, self._events = first, events
        # Proxies that gather an answer before they pass it on are asked not to.
        super().__init__(self._all(), media_type=EVENTS_TYPE, headers={"X-Accel-Buffering": "no"})

    async def _all(self) -> Events:
        yield self._first
        async for each in self._events:
            yield each

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events, or as many as somebody listens to."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
