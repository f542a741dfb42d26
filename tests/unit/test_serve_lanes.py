"""The proxy's end of a lane: what is gone before it is asked, and what never says a word."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from heliostat.serve import lanes
from heliostat.serve.frames import CLOSING, HELLO
from heliostat.serve.lanes import Way

SCOPE = {"type": "http", "method": "POST", "path": "/v1/models/mood:predict", "headers": [], "query_string": b""}


@pytest.mark.parametrize("dies", [True, False])
def test_who_was_chosen_and_is_gone_when_the_body_comes_is_not_waited_for(dies: bool) -> None:
    async def test() -> None:
        way = Way()
        way.came(0, HELLO, b"5.0", b"")
        way.ended() if dies else way.came(0, CLOSING, b"", b"")
        with pytest.raises(ConnectionError):
            await way.ask(SCOPE, b"{}", asyncio.get_running_loop().create_future())

    asyncio.run(asyncio.wait_for(test(), 2))


def test_a_replica_that_does_not_greet_gathers_no_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_GREETING_S", 0.05)

    async def test(path: Path) -> None:
        came, left = asyncio.Event(), asyncio.Event()

        class Frozen(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                came.set()

            def connection_lost(self, error: Exception | None) -> None:
                left.set()

        server = await asyncio.get_running_loop().create_unix_server(Frozen, str(path))
        with pytest.raises(TimeoutError):
            await lanes._connected(path)
        assert came.is_set()
        await asyncio.wait_for(left.wait(), 2)
        server.close()

    with TemporaryDirectory(prefix="lanes-") as folder:  # the path of a socket must be short
        asyncio.run(test(Path(folder) / "1-0"))
