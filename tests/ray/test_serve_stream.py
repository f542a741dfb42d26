"""Streams through a real Ray Serve: by the proxy alone, and through the index where models share an address."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from heliostat.predict import Predictor
from heliostat.serve.client import Client, RefusedError
from heliostat.serve.deployment import Deployment, serve

QUESTIONS = [{"text": "the train leaves at nine"}, {"text": "he lost his keys"}]


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.sweep), 2], ids=["one model", "two models"])
def deployment(
    request: pytest.FixtureRequest, tiny_writer: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELIOSTAT_HOME", str(tmp_path_factory.mktemp("home")))
        with serve([str(tiny_writer), str(tiny_checkpoint)][: request.param], port=0, precision="fp32") as deployment:
            yield deployment


def test_pieces_make_up_the_predictors_own_answer(deployment: Deployment, tiny_writer: Path) -> None:
    expected = Predictor.load(tiny_writer, threads=1).predict(QUESTIONS)
    with Client(deployment.url, timeout=60) as client:
        for question, row in zip(QUESTIONS, expected, strict=True):
            pieces = list(client.stream("writer", question))
            assert "".join(pieces) == row["answer"]
            assert len(pieces) > 3


def test_what_is_refused_has_the_one_shape(deployment: Deployment) -> None:
    with Client(deployment.url, timeout=60) as client:
        with pytest.raises(RefusedError) as refused:
            next(client.stream("writer", {"text": " "}))
        assert (refused.value.status, refused.value.code) == (422, "empty_text")
        assert refused.value.field == "instances[0].text"
        with pytest.raises(RefusedError) as refused:
            next(client.stream("nobody", QUESTIONS[0]))
        assert (refused.value.status, refused.value.code) == (404, "unknown_model")
        if len(deployment.models) == 2:
            with pytest.raises(RefusedError) as refused:
                next(client.stream("mood", QUESTIONS[0]))
            assert (refused.value.status, refused.value.code) == (404, "not_streaming")
        assert client.predict("writer", QUESTIONS[:1])[0]["answer"]
    raw = httpx.post(f"{deployment.url}/v1/models/writer:stream", content=b"{", timeout=60, trust_env=False)
    assert (raw.status_code, raw.json()["error"]["code"]) == (415, "not_json")
    assert raw.json()["error"]["request_id"] == raw.headers["x-request-id"]


def test_who_goes_away_leaves_the_room_to_others(deployment: Deployment) -> None:
    """Four times as many as may be written at once, each left after its first piece; then all is as it was."""
    with Client(deployment.url, timeout=60) as client:
        for _ in range(64):
            pieces = client.stream("writer", QUESTIONS[0])
            next(pieces)
            pieces.close()
        written, deadline = "", time.monotonic() + 20
        while not written and time.monotonic() < deadline:
            with contextlib.suppress(RefusedError):  # until the last of them is known to be gone
                written = "".join(client.stream("writer", QUESTIONS[1]))
            time.sleep(0.2)
        assert written == client.predict("writer", QUESTIONS[1:])[0]["answer"]
        assert "/v1/models/writer:stream" in httpx.get(f"{deployment.url}/openapi.json", timeout=60).json()["paths"]
