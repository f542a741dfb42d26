"""What stands in Serve's proxy: a second try where a replica died, one shape, closed side doors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse

from heliostat.serve.front import Front
from heliostat.serve.guard import ON_EVERY_ANSWER

App = Callable[..., Awaitable[None]]


def ours(value: Any, status: int = 200) -> JSONResponse:
    return JSONResponse(value, status, headers=ON_EVERY_ANSWER)


def ask(app: App, method: str = "POST", path: str = "/v1/models/mood:predict", **asked: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app=Front(app), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.request(method, path, **asked)

    return asyncio.run(run())


async def body_of(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


class Dying:
    """Serve's proxy over replicas of which the first ones die while they answer."""

    def __init__(self, deaths: int, error: Exception | None = None) -> None:
        self.deaths, self.error, self.seen = deaths, error, 0
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen += 1
        self.bodies.append(await body_of(receive))
        if self.seen <= self.deaths:
            if self.error:
                raise self.error
            return  # Serve says nothing, and its server would answer 500
        await ours({"attempt": self.seen})(scope, receive, send)


async def chunks() -> Any:
    for _ in range(3):
        yield b"x" * 1000


@pytest.mark.parametrize("error", [None, RuntimeError("died")])
def test_a_request_whose_replica_died_goes_to_another_one(error: Exception | None) -> None:
    app = Dying(1, error)
    answer = ask(app, content=chunks())
    assert (answer.status_code, answer.json()) == (200, {"attempt": 2})
    assert app.bodies == [b"x" * 3000] * 2


def test_a_request_that_kills_replicas_kills_two_at_most() -> None:
    app = Dying(9)
    answer = ask(app, content=b"{}")
    assert (answer.status_code, answer.json()["error"]["code"], app.seen) == (503, "unavailable", 2)
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-request-id"] == answer.json()["error"]["request_id"]


def test_what_may_change_something_is_not_sent_again() -> None:
    app = Dying(1)
    assert ask(app, path="/gradio_api/queue", content=b"{}").status_code == 503
    assert app.seen == 1


def test_a_body_too_large_to_keep_is_passed_on_once() -> None:
    async def large() -> Any:
        for _ in range(9):
            yield b"x" * (1 << 20)

    app = Dying(1)
    assert ask(app, content=large()).status_code == 503
    assert (app.seen, len(app.bodies[0])) == (1, 9 << 20)


@pytest.mark.parametrize(
    ("status", "told", "code"),
    [(503, 503, "unavailable"), (408, 504, "deadline_exceeded"), (404, 503, "unavailable")],
)
def test_what_the_proxy_says_itself_gets_our_shape(status: int, told: int, code: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("Replica 'a#b' of app 'secret' said no", status)(scope, receive, send)

    answer = ask(app, content=b"{}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (told, code)
    assert "secret" not in answer.text


def test_refusals_of_ours_pass_as_they_are() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await ours({"error": {"code": "queue_full"}}, 503)(scope, receive, send)

    assert ask(app, content=b"{}").json() == {"error": {"code": "queue_full"}}


def test_an_answer_that_breaks_off_is_not_begun_again() -> None:
    seen = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal seen
        seen += 1

        async def pieces() -> Any:
            yield b"first "
            raise RuntimeError("died")

        await StreamingResponse(pieces(), headers=ON_EVERY_ANSWER)(scope, receive, send)

    ask(app, content=b"{}")
    assert seen == 1


def test_the_routes_of_the_proxy_are_closed_but_for_its_health() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("success")(scope, receive, send)

    assert ask(app, "GET", "/-/routes").json()["error"]["code"] == "unknown_route"
    assert ask(app, "GET", "/-/anything").status_code == 404
    assert ask(app, "GET", "/-/healthz").text == "success"


def test_no_client_tells_serves_proxy_how_long_to_wait() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await ours(sorted(name.decode() for name, _ in scope["headers"]))(scope, receive, send)

    told = {"X-Request-Timeout-Seconds": "-1", "X-Request-Disconnect-Disabled": "?1", "X-Request-ID": "r1"}
    found = ask(app, content=b"{}", headers=told).json()
    assert [name for name in found if name.startswith("x-")] == ["x-request-id"]


def test_a_client_that_left_is_not_answered_for() -> None:
    app, sent = Dying(1), []

    async def run() -> None:
        messages = [{"type": "http.request", "body": b"{}", "more_body": True}, {"type": "http.disconnect"}]

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        await Front(app)(
            {"type": "http", "method": "POST", "path": "/v1/models/mood:predict", "headers": []}, receive, send
        )

    asyncio.run(run())
    assert (app.seen, sent) == (1, [])
