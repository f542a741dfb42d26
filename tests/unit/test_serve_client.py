"""The client against a real socket, and that it needs neither Ray nor torch."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from heliostat.errors import ServeError
from heliostat.serve.client import Answer, AsyncClient, Client, RefusedError, Retry
from heliostat.serve.retry import Wait


class Canned(BaseHTTPRequestHandler):
    """Answers by path, so that the client meets what a network can bring."""

    def do_GET(self) -> None:
        body, status = {
            "/v1/models": (b'{"models": ["sentiment"]}', 200),
            "/v1/models/odd": (b'{"error": "a string"}', 418),
            "/v1/models/html": (b"<h1>hello</h1>", 200),
            "/v1/models/list": (b"[]", 200),
        }.get(self.path, (b'{"error": {"code": "unknown_model", "message": "No such model.", "field": null}}', 404))
        if self.path == "/v1/models" and self.headers.get("Authorization") != "Bearer secret-token-here":
            status = 401
        self._answer(status, body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        text = b'{"error": {"code": "text_too_long", "message": "Too long.", "field": "instances[0].text"}}'
        self._answer(413, text)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Canned)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_sends_its_token_and_shows_it_nowhere(url: str) -> None:
    with Client(url, token="secret-token-here") as client:
        assert client.models() == ["sentiment"]
        assert "secret" not in repr(client)
    with Client(url) as client, pytest.raises(RefusedError):
        client.models()


def test_a_refusal_carries_status_code_and_field(url: str) -> None:
    with Client(url) as client, pytest.raises(ServeError) as refused:
        client.predict("sentiment", [{"text": "a"}])
    error = refused.value
    assert isinstance(error, RefusedError)
    assert (error.status, error.code, error.field) == (413, "text_too_long", "instances[0].text")
    assert "Too long." in str(error)


@pytest.mark.parametrize(
    ("name", "code"), [("none", "unknown_model"), ("odd", "unknown"), ("html", "no_json"), ("list", "unknown")]
)
def test_whatever_answers_is_a_serve_error(url: str, name: str, code: str) -> None:
    with Client(url) as client, pytest.raises(RefusedError) as refused:
        client.model(name)
    assert refused.value.code == code


def test_nobody_there() -> None:
    with (
        Client("http://127.0.0.1:9", timeout=2, retry=Retry(total_s=0)) as client,
        pytest.raises(RefusedError, match="heliostat serve") as refused,
    ):
        client.models()
    assert refused.value.code == "unreachable"


def test_the_client_imports_neither_ray_nor_torch() -> None:
    heavy = "{'ray', 'torch', 'transformers', 'fastapi'}"
    code = f"import sys, heliostat.serve.client; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


PATIENT = Retry(total_s=20, first_s=0.001, most_s=0.01)
QUESTION = {"text": "a"}
ANSWERED = {"predictions": [{"label": "b"}], "model": {"name": "mood", "version": 3}, "latency_ms": 1.0}


class Flaky(BaseHTTPRequestHandler):
    """Fails as its server's list of failures says, one a request, and then answers."""

    failures: list[str]
    seen: list[dict[str, str]]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append({name.lower(): value for name, value in self.headers.items()})
        failure = self.failures.pop(0) if self.failures else ""
        if failure == "cut":  # the connection breaks before an answer
            self.close_connection = True
            return
        if failure:
            status, _, after = failure.partition(" ")
            self._say(int(status), b'{"error": {"code": "queue_full", "message": "Full."}}', {"Retry-After": after})
        elif self.path.endswith(":stream"):
            row = json.dumps({"prediction": {"answer": "ab"}, "model": ANSWERED["model"], "latency_ms": 1.0})
            told = [("piece", '{"text": "a"}'), ("piece", '{"text": "b"}'), ("answer", row)]
            self._say(200, "".join(f"event: {name}\ndata: {data}\n\n" for name, data in told).encode())
        else:
            self._say(200, json.dumps(ANSWERED).encode())

    def _say(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


Flaking = Callable[..., tuple[str, list[dict[str, str]]]]


@pytest.fixture
def flaking() -> Iterator[Flaking]:
    """flaking("503", "cut") gives the address of a server that fails so, and the headers that it sees."""
    servers = []

    def start(*failures: str) -> tuple[str, list[dict[str, str]]]:
        kind = type("Failing", (Flaky,), {"failures": list(failures), "seen": []})
        server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}", kind.seen  # type: ignore[attr-defined]

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


Ask = Callable[[str, Retry], Any]


def ask(url: str, retry: Retry) -> Answer:
    with Client(url, retry=retry) as client:
        return client.ask("mood", [QUESTION])


def ask_async(url: str, retry: Retry) -> Answer:
    async def run() -> Answer:
        async with AsyncClient(url, retry=retry) as client:
            return await client.ask("mood", [QUESTION])

    return asyncio.run(run())


def stream(url: str, retry: Retry) -> Any:
    with Client(url, retry=retry) as client:
        pieces, answer = [], None
        written = client.stream("mood", QUESTION)
        while answer is None:
            try:
                pieces.append(next(written))
            except StopIteration as end:
                answer = end.value
        return pieces, answer.predictions


def stream_async(url: str, retry: Retry) -> Any:
    async def run() -> Any:
        async with AsyncClient(url, retry=retry) as client:
            *pieces, answer = [piece async for piece in client.stream("mood", QUESTION)]
            assert isinstance(answer, Answer)
            return pieces, answer.predictions

    return asyncio.run(run())


BOTH = pytest.mark.parametrize("ask", [ask, ask_async, stream, stream_async])


@BOTH
def test_what_was_busy_or_broke_is_asked_again_under_one_key(ask: Ask, flaking: Flaking) -> None:
    url, seen = flaking("503", "cut", "502", "504", "429 0")
    answer = ask(url, PATIENT)
    if isinstance(answer, Answer):
        assert (answer.predictions, answer.name, answer.version) == ([{"label": "b"}], "mood", 3)
    else:
        assert answer == (["a", "b"], [{"answer": "ab"}])
    assert len(seen) == 6
    keys = {(each["idempotency-key"], each["x-request-id"]) for each in seen}
    assert len(keys) == 1
    assert len(set(*keys)) == 1


@BOTH
def test_what_another_try_will_not_change_is_told_at_once(ask: Ask, flaking: Flaking) -> None:
    for failure in ("400", "401", "413", "422", "429", "500"):
        url, seen = flaking(failure, "503")
        with pytest.raises(RefusedError) as refused:
            ask(url, PATIENT)
        assert (refused.value.status, len(seen)) == (int(failure), 1)


@BOTH
def test_it_gives_up_in_time(ask: Ask, flaking: Flaking) -> None:
    url, seen = flaking(*["503 3600"] * 3)
    with pytest.raises(RefusedError) as busy:
        ask(url, PATIENT)
    assert (busy.value.status, busy.value.code, len(seen)) == (503, "queue_full", 1), "it is told to come back too late"
    with pytest.raises(RefusedError, match=r"in \d+ tries") as silent:
        ask("http://127.0.0.1:9", Retry(total_s=0.5, first_s=0.01, most_s=0.01))
    assert (silent.value.status, silent.value.code) == (0, "unreachable")


def test_a_client_may_name_its_request(flaking: Flaking) -> None:
    url, seen = flaking()
    with Client(url) as client:
        client.ask("mood", [QUESTION], key="order-7")
    assert seen[0]["x-request-id"] == seen[0]["idempotency-key"] == "order-7"


def reply(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, headers={name.replace("_", "-"): value for name, value in headers.items()})


def test_the_policy_waits_longer_each_time_and_never_past_its_end() -> None:
    policy = Retry(total_s=10, first_s=0.1, most_s=1.0)

    def most(low: float, high: float) -> float:
        return high

    bounds = [policy.after(tries, 0.0, reply(503), most) for tries in range(1, 7)]
    assert bounds == [Wait(0.1), Wait(0.2), Wait(0.4), Wait(0.8), Wait(1.0), Wait(1.0)]
    assert policy.after(10_000, 0.0, reply(503), most) == Wait(1.0)
    assert policy.after(1, 0.0, reply(503), lambda low, high: low) == Wait(0.0), "the jitter is full"
    assert policy.after(1, 0.0, reply(503, retry_after="2"), most) == Wait(2.1)
    assert policy.after(1, 9.95, reply(503), most) is None
    assert policy.after(1, 0.0, reply(503, retry_after="10"), most) is None
    assert policy.after(1, 0.0, reply(429, retry_after="1"), most) == Wait(1.1)
    for outcome in (
        reply(429),
        reply(429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"),
        reply(500),
        reply(200),
        reply(422),
    ):
        assert policy.after(1, 0.0, outcome, most) is None
    assert policy.after(1, 0.0, httpx.ConnectError("no"), most) == Wait(0.1)
    assert policy.after(1, 0.0, httpx.ReadTimeout("slow"), most) is None, "an answer may be on its way"
    assert Retry(total_s=0).after(1, 0.0, reply(503), lambda low, high: low) is None
