"""What the index does where the replica that it asked died: once more, and then a sentence."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from heliostat.serve.events import event
from heliostat.serve.guard import Access
from heliostat.serve.index import IndexRoutes
from heliostat.serve.limits import Limits
from heliostat.serve.refusal import Refusal, late
from heliostat.serve.relay import Relayed, Reply

STREAM, EMBEDDINGS = "/v1/models/mood:stream", "/v1/embeddings"
BODIES = {STREAM: {"instances": [{"text": "a"}]}, EMBEDDINGS: {"model": "mood", "input": "a"}}


class Models:
    """Models whose replicas meet these errors, one a try, and answer then."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.asked = 0

    def _meet(self) -> None:
        self.asked += 1
        if self._errors:
            raise self._errors.pop(0)

    async def ask(self, name: str, what: str) -> Any:
        raise AssertionError("nobody asks")

    async def relay(self, name: str, request: Relayed) -> Reply:
        self._meet()
        return Reply(200, [("content-type", "application/json")], request.body)

    async def stream(self, name: str, body: bytes, request_id: str) -> AsyncGenerator[str, None]:
        self._meet()
        yield event("answer", {"by": name})

    def post(self, path: str) -> Any:
        app = IndexRoutes(("mood", "temper"), self.ask, Limits(), Access(), self.stream, None, self.relay).app()
        return TestClient(app, raise_server_exceptions=False).post(path, json=BODIES[path])


@pytest.mark.parametrize("path", [STREAM, EMBEDDINGS])
def test_a_replica_that_died_is_asked_once_more(path: str) -> None:
    models = Models(RuntimeError("died"))
    answer = models.post(path)
    assert (answer.status_code, models.asked) == (200, 2)
    assert "mood" in answer.text


@pytest.mark.parametrize("path", [STREAM, EMBEDDINGS])
def test_two_that_died_are_enough_and_the_client_is_told_to_come_back(path: str) -> None:
    models = Models(RuntimeError("died"), RuntimeError("died"))
    answer = models.post(path)
    assert (answer.status_code, answer.json()["error"]["code"], models.asked) == (503, "not_ready", 2)
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("path", [STREAM, EMBEDDINGS])
@pytest.mark.parametrize("errors", [[late()], [RuntimeError("died"), late()]])
def test_a_refusal_is_an_answer(path: str, errors: list[Exception]) -> None:
    models = Models(*errors)
    assert (models.post(path).status_code, models.asked) == (504, len(errors))
    assert isinstance(errors[-1], Refusal)
