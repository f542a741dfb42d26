"""The client against a real socket, and that it needs neither Ray nor torch."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from heliostat.errors import ServeError
from heliostat.serve.client import Client, RefusedError


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
        Client("http://127.0.0.1:9", timeout=2) as client,
        pytest.raises(RefusedError, match="heliostat serve") as refused,
    ):
        client.models()
    assert refused.value.code == "unreachable"


def test_the_client_imports_neither_ray_nor_torch() -> None:
    heavy = "{'ray', 'torch', 'transformers', 'fastapi'}"
    code = f"import sys, heliostat.serve.client; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
