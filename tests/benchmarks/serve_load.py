"""The load generator of serve.py: N connections, each of which sends its next request when its last one is answered.

    python serve_load.py PORT PATH BODIES N SECONDS

BODIES is a file with a JSON body a line; connections take the next one in turn. Plain asyncio over a socket, the
least that speaks HTTP/1.1, because it shares the cores with what it measures. Prints requests, seconds, milliseconds
of each request, its own CPU seconds and statuses, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Any

with contextlib.suppress(ImportError):
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


class Connection(asyncio.Protocol):
    """One connection that asks until the time is up."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._read = b""
        self._began = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(error or ConnectionError("the server closed a connection"))

    def _send(self) -> None:
        self._began = time.perf_counter()
        if self._began > self._asked.until:
            self.ended.set_result(None)
            self._transport.close()
            return
        self._transport.write(next(self._asked.requests))

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, found, rest = self._read.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        start = lower.find(b"content-length:")
        if start < 0:
            raise ValueError(f"an answer without Content-Length: {head!r}")
        if len(rest) < int(lower[start + 15 :].split(b"\r\n", 1)[0]):
            return
        self._asked.milliseconds.append((time.perf_counter() - self._began) * 1000)
        self._asked.statuses[head[9:12].decode()] += 1
        self._read = b""
        self._send()


class Asked:
    """What all connections share."""

    def __init__(self, port: int, path: str, bodies: list[bytes], seconds: float) -> None:
        self.port = port
        self.requests = cycle([_request(port, path, body) for body in bodies])
        self.until = time.perf_counter() + seconds
        self.milliseconds: list[float] = []
        self.statuses: Counter[str] = Counter()


def _request(port: int, path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Accept: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def ask(asked: Asked, connections: int) -> None:
    loop = asyncio.get_running_loop()
    made = [loop.create_connection(lambda: Connection(asked), "127.0.0.1", asked.port) for _ in range(connections)]
    await asyncio.gather(*(protocol.ended for _, protocol in await asyncio.gather(*made)))


def main() -> None:
    port, path, bodies, connections, seconds = sys.argv[1:]
    asked = Asked(int(port), path, Path(bodies).read_bytes().splitlines(), float(seconds))
    began, cpu = time.perf_counter(), time.process_time()
    asyncio.run(ask(asked, int(connections)))
    facts = {
        "seconds": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu,
        "milliseconds": [round(each, 3) for each in asked.milliseconds],
        "statuses": dict(asked.statuses),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
