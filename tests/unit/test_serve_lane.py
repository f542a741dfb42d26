"""The short way between Serve's proxy and replicas: real Unix sockets, replicas that die, hang, close and come back."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heliostat.serve import frames, lanes
from heliostat.serve.front import Front
from heliostat.serve.guard import ON_EVERY_ANSWER
from heliostat.serve.lane import BY_LANE, ROOT, Lane, lanes_of

PREDICT = "/v1/models/mood:predict"


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with TemporaryDirectory(prefix="lanes-") as folder:  # the path of a socket must be short
        monkeypatch.setenv(ROOT, folder)
        yield Path(folder)


async def body_of(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


class Replica:
    """An application that says what it was asked, and how."""

    def __init__(self, name: str, work: Callable[[Receive], Awaitable[None]] | None = None) -> None:
        self.name, self.asked, self._work = name, 0, work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        body = await body_of(receive)
        if self._work:
            await self._work(receive)
        headers = dict(scope["headers"])
        told = {"by": self.name, "lane": bool(scope.get(BY_LANE)), "body": body.decode(), "path": scope["path"]}
        kind = headers.get(b"content-type", b"").decode()
        await JSONResponse({**told, "type": kind}, 201, headers=ON_EVERY_ANSWER)(scope, receive, send)


@asynccontextmanager
async def open_lane(app: ASGIApp, name: str = "mood") -> AsyncIterator[Lane]:
    lane = Lane(app, name, 5.0)
    await lane.turn(True)
    try:
        yield lane
    finally:
        await lane.turn(False)


@asynccontextmanager
async def dying(replica: list[int]) -> AsyncIterator[None]:
    """A replica that dies at each request, and counts them."""

    class End(frames.Frames):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.put(0, frames.HELLO, 5.0)

        def came(self, number: int, kind: int, head: bytes, body: bytes) -> None:
            replica.append(number)
            self.close()

        def ended(self) -> None: ...

    folder = lanes_of("mood")
    assert folder is not None
    folder.mkdir(exist_ok=True)
    server = await asyncio.get_running_loop().create_unix_server(End, str(folder / f"0-{id(replica)}"))
    yield
    server.close()


async def ask(app: ASGIApp, messages: asyncio.Queue[Message]) -> list[Message]:
    """What is sent back where messages come one by one, as from uvicorn."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": PREDICT, "headers": [], "query_string": b""}
    await app(scope, messages.get, send)
    return sent


def client(serve: ASGIApp) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=Front(serve), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://here")


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await test()

    asyncio.run(asyncio.wait_for(whole(), 20))


def test_a_prediction_takes_the_lane_and_all_else_serves_way(root: Path) -> None:
    async def test() -> None:
        near, far = Replica("near"), Replica("far")
        async with open_lane(near), client(far) as asking:
            for path in (PREDICT, "/v2/models/mood/infer", "/v2/models/mood/versions/3/infer"):
                answer = await asking.post(path, json={"a": "ü"})
                told = {"by": "near", "lane": True, "body": '{"a":"ü"}', "path": path, "type": "application/json"}
                assert (answer.status_code, answer.json()) == (201, told)
                assert answer.headers["x-content-type-options"] == "nosniff"
            for path in ("/v1/models/mood:stream", "/v1/models/other:predict", "/v1/embeddings"):
                assert (await asking.post(path, json={})).json()["by"] == "far"
            assert (await asking.get("/v1/models/mood")).json()["by"] == "far"
        folder = lanes_of("mood")
        assert folder is not None
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    run(test)


def test_without_a_folder_all_goes_serves_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ROOT, raising=False)

    async def test() -> None:
        async with open_lane(Replica("near")), client(Replica("far")) as asking:
            assert (await asking.post(PREDICT, json={})).json()["by"] == "far"

    run(test)


@pytest.mark.parametrize(("size", "pause_s", "by"), [(100, 0.0, "near"), (100, 0.3, "far"), (200_000, 0.0, "far")])
def test_a_body_that_is_large_or_slow_goes_serves_way_whole(root: Path, size: int, pause_s: float, by: str) -> None:
    async def test() -> None:
        messages: asyncio.Queue[Message] = asyncio.Queue()
        async with open_lane(Replica("near")):
            asked = asyncio.create_task(ask(Front(Replica("far")), messages))
            for piece in (b"one", b"two", b"end"):
                messages.put_nowait({"type": "http.request", "body": piece * size, "more_body": piece != b"end"})
                await asyncio.sleep(pause_s)
            told = json.loads((await asked)[1]["body"])
        assert (told["by"], told["body"]) == (by, "one" * size + "two" * size + "end" * size)

    run(test)


def test_requests_spread_over_replicas_and_a_new_one_is_found(root: Path) -> None:
    async def test() -> None:
        async def work(_: Receive) -> None:
            await asyncio.sleep(0.05)

        async with open_lane(Replica("one", work)), client(Replica("far")) as asking:
            assert (await asking.post(PREDICT, json={})).json()["by"] == "one"
            async with open_lane(Replica("two", work)):
                await asking.post(PREDICT, json={})  # sees that there is another, and does not wait for it
                answers = await asyncio.gather(*(asking.post(PREDICT, json={}) for _ in range(8)))
                assert sorted(each.json()["by"] for each in answers) == ["one"] * 4 + ["two"] * 4

    run(test)


def test_a_request_whose_replica_died_goes_to_another_and_kills_two_at_most(root: Path) -> None:
    async def test() -> None:
        one, two, far = [], [], Replica("far")  # type: ignore[var-annotated]
        async with client(far) as asking:
            async with dying(one), dying(two):
                answer = await asking.post(PREDICT, content=b"body")
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
                assert answer.headers["retry-after"] == "1"
                assert (len(one), len(two), far.asked) == (1, 1, 0)
            async with dying(one), open_lane(Replica("near")):
                found = [(await asking.post(PREDICT, content=b"body")).json() for _ in range(3)]
                assert [(each["by"], each["body"]) for each in found] == [("near", "body")] * 3

    run(test)


def test_where_the_only_replica_died_serve_is_asked(root: Path) -> None:
    async def test() -> None:
        deaths: list[int] = []
        far = Replica("far")
        async with client(far) as asking:
            async with dying(deaths):
                folder = lanes_of("mood")
                assert folder is not None
                waiting = asyncio.create_task(asking.post(PREDICT, content=b"body"))
                while not deaths:
                    await asyncio.sleep(0.001)
                for path in folder.iterdir():
                    path.unlink()
            answer = await waiting
            assert (answer.status_code, answer.json()["by"], answer.json()["body"]) == (201, "far", "body")

    run(test)


def test_a_socket_that_a_killed_replica_left_is_removed(root: Path) -> None:
    async def test() -> None:
        async with open_lane(Replica("near")):
            folder = lanes_of("mood")
            assert folder is not None
            left = folder / "1-0"
            server = await asyncio.get_running_loop().create_unix_server(asyncio.Protocol, str(left))
            server.close()
            left.touch() if not left.exists() else None
            async with client(Replica("far")) as asking:
                assert (await asking.post(PREDICT, json={})).json()["by"] == "near"
            assert not left.exists()

    run(test)


def test_what_a_closing_lane_has_is_answered(root: Path) -> None:
    async def test() -> None:
        begun, go = asyncio.Event(), asyncio.Event()

        async def work(_: Receive) -> None:
            begun.set()
            await go.wait()

        async with open_lane(Replica("near", work)) as lane, client(Replica("far")) as asking:
            first = asyncio.create_task(asking.post(PREDICT, json={}))
            await begun.wait()
            closing = asyncio.create_task(lane.turn(False))
            await asyncio.sleep(0.05)
            assert (await asking.post(PREDICT, json={})).json()["by"] == "far"
            go.set()
            assert (await first).json()["by"] == "near"
            await closing
            await lane.turn(True)
            assert (await asking.post(PREDICT, json={})).json()["by"] == "near"

    run(test)


def test_a_replica_that_is_silent_costs_no_more_than_its_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_GRACE_S", 0.1)

    async def test() -> None:
        async def work(_: Receive) -> None:
            await asyncio.sleep(3)

        lane = Lane(Replica("near", work), "mood", 0.1)
        await lane.turn(True)
        async with client(Replica("far")) as asking:
            answer = await asking.post(PREDICT, json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        await lane.turn(False)

    run(test)


def test_a_replica_learns_that_the_client_left(root: Path) -> None:
    async def test() -> None:
        begun, left = asyncio.Event(), asyncio.Event()

        async def work(receive: Receive) -> None:
            begun.set()
            assert (await receive())["type"] == "http.disconnect"
            left.set()

        messages: asyncio.Queue[Message] = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": b"{}", "more_body": False})
        async with open_lane(Replica("near", work)):
            asked = asyncio.create_task(ask(Front(Replica("far")), messages))
            await begun.wait()
            messages.put_nowait({"type": "http.disconnect"})
            await left.wait()
            assert await asked == []

    run(test)


def test_an_application_that_fails_without_an_answer_is_not_waited_for(root: Path) -> None:
    async def test() -> None:
        async def work(_: Receive) -> None:
            raise RuntimeError("no answer")

        async with open_lane(Replica("near", work)), client(Replica("far")) as asking:
            answer = await asking.post(PREDICT, json={})
        assert answer.status_code == 503
        assert json.loads(answer.content)["error"]["code"] == "unavailable"

    run(test)
