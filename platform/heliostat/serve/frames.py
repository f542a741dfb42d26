"""What passes between Serve's proxy and a replica on the same machine: a number, a kind, a head and a body at a time.

Many requests share a connection, so that each has a number. Numbers of 200 and above are the status of an answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from struct import Struct
from typing import Any, cast

HELLO, ASK, LEFT, CLOSING, FAILED = range(5)
"""A replica says how long it may take; a request; its client went away; no more requests here; nobody answered it."""
MOST_BYTES = 256 << 20
"""A frame that claims more is none of ours."""

_START = Struct("!IIHI")
Headers = Sequence[tuple[bytes, bytes]]


class Frames(asyncio.Protocol):
    """One end of a connection. Subclasses say what a frame means to them (`came`) and what its end does (`ended`)."""

    def __init__(self) -> None:
        self._read = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio."""
        self._transport = None
        self.ended()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._read += data
        at, have = 0, len(self._read)
        while have - at >= _START.size:
            size, number, kind, head = _START.unpack_from(self._read, at)
            if head > size or size > MOST_BYTES:
                self.close()
                return
            start, end = at + _START.size, at + _START.size + size
            if have < end:
                break
            self.came(number, kind, bytes(self._read[start : start + head]), bytes(self._read[start + head : end]))
            at = end
        del self._read[:at]

    def put(self, number: int, kind: int, head: Any = None, body: bytes = b"") -> None:
        """Send a frame; the head is a JSON value. A connection that is gone takes none."""
        if self._transport is None:
            return
        text = b"" if head is None else json.dumps(head).encode()
        self._transport.write(_START.pack(len(text) + len(body), number, kind, len(text)) + text + body)

    def close(self) -> None:
        """End the connection once all is sent."""
        if self._transport is not None:
            self._transport.close()

    def came(self, number: int, kind: int, head: bytes, body: bytes) -> None:
        """A frame is here."""
        raise NotImplementedError

    def ended(self) -> None:
        """The connection is gone."""
        raise NotImplementedError


def as_text(headers: Headers) -> list[list[str]]:
    """Headers as JSON holds them."""
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]


def as_bytes(headers: Sequence[Sequence[str]]) -> list[tuple[bytes, bytes]]:
    """The same back."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
