"""Who waits how long: slow bodies, full queues, late answers, clients that hang up."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any

import httpx

from heliostat.serve.app import build_app
from heliostat.serve.limits import Limits
from heliostat.serve.schema import Served
from heliostat.testing.word_list import PREDICT, WordList, app_of, ask


def test_a_slow_body_is_let_go() -> None:
    async def drip() -> AsyncIterator[bytes]:
        yield b'{"instances": ['
        await asyncio.sleep(30)

    app = app_of(Limits(body_timeout_s=0.05))
    headers = {"Content-Type": "application/json"}
    response = ask(app, lambda client: client.post(PREDICT, content=drip(), headers=headers))
    assert (response.status_code, response.json()["error"]["code"]) == (408, "body_timeout")


class Slow(WordList):
    """Answers once it is let."""

    def __init__(self) -> None:
        self.entered, self.go = threading.Event(), threading.Event()
        self.seen: list[str] = []

    def predict(self, examples: Sequence[dict[str, Any]], *, max_tokens: int = 8192) -> list[dict[str, Any]]:
        self.seen += [example["text"] for example in examples]
        self.entered.set()
        assert self.go.wait(20)
        return super().predict(examples)


def post(client: httpx.AsyncClient, text: str) -> Awaitable[httpx.Response]:
    return client.post(PREDICT, json={"instances": [{"text": text}]})


def test_a_full_queue_and_a_late_answer_have_the_one_shape() -> None:
    model = Slow()

    async def send(client: httpx.AsyncClient) -> list[httpx.Response]:
        first = asyncio.ensure_future(post(client, "first"))
        await asyncio.to_thread(model.entered.wait, 20)
        # One waits and becomes late; the queue of one is full for the other.
        answers = await asyncio.gather(post(client, "second"), post(client, "third"))
        model.go.set()
        return [await first, *answers]

    late, *others = ask(build_app(model, Served("sentiment", 3), Limits(max_waiting=1, timeout_s=0.5)), send)
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    codes = {answer.status_code: answer for answer in others}
    assert set(codes) == {503, 504}
    assert codes[503].json()["error"]["code"] == "queue_full"
    assert int(codes[503].headers["retry-after"]) >= 1
    assert model.seen == ["first"]


def test_a_client_that_hangs_up_is_let_go() -> None:
    model = Slow()
    app = build_app(model, Served("sentiment", 3))
    sent: list[Any] = []
    body = json.dumps({"instances": [{"text": "gone"}]}).encode()
    headers = [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")]
    scope = {
        "type": "http", "method": "POST", "path": PREDICT, "raw_path": PREDICT.encode(), "query_string": b"",
        "headers": headers, "http_version": "1.1", "scheme": "http", "root_path": "", "asgi": {"version": "3.0"},
    }  # fmt: skip

    async def send(client: httpx.AsyncClient) -> float:
        first = asyncio.ensure_future(post(client, "first"))
        await asyncio.to_thread(model.entered.wait, 20)
        messages: list[dict[str, Any]] = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        async def keep(message: Any) -> None:
            sent.append(message)

        await asyncio.wait_for(app(scope, receive, keep), 10)  # it ends while the model still works on the first
        assert not first.done()
        text = (await client.get("/metrics")).text
        model.go.set()
        assert (await first).status_code == 200
        return float(next(line for line in text.splitlines() if line.startswith("heliostat_queue_length{")).split()[-1])

    assert ask(app, send) == 0.0
    assert model.seen == ["first"]
    assert sent[0]["status"] == 499
