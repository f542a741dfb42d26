"""Answers while they are written: pieces that make up the text, over real HTTP, until nobody reads."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from heliostat.component import Row
from heliostat.errors import HeliostatError, PredictError
from heliostat.heads.pieces import Pieces
from heliostat.heads.seq2seq import Seq2Seq
from heliostat.plugin import TaskHead
from heliostat.predict import Predictor
from heliostat.serve.app import build_app
from heliostat.serve.client import Client, RefusedError, Retry
from heliostat.serve.guard import Access
from heliostat.serve.limits import Limits
from heliostat.serve.schema import Served
from heliostat.serve.token import digest
from heliostat.testing.bad_requests import MARKER, bad_requests
from heliostat.testing.serving import listening

ONCE = Retry(total_s=0)
QUESTION = {"text": "the train leaves at nine"}
Writer = Callable[..., Any]


class Typist:
    """A model without weights: it repeats the words of a text, one a step, as fast as it is let."""

    head: TaskHead = Seq2Seq(Seq2Seq.Config())

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.written: list[str] = []
        self.has_stopped = threading.Event()

    def predict(self, examples: Sequence[Row], *, max_tokens: int = 8192) -> list[Row]:
        return [{"answer": each["text"], "score": 0.0, "beams": []} for each in examples]

    def stream(self, example: Row) -> Iterator[str | Row]:
        try:
            for word in example["text"].split():
                assert self.go.acquire(timeout=20)
                if word == "crash":
                    raise RuntimeError("secret words")
                self.written.append(word)
                yield f"{word} "
            yield self.predict([example])[0]
        finally:
            self.has_stopped.set()


@contextmanager
def served(model: Any, access: Access | None = None, **limits: Any) -> Iterator[str]:
    app = build_app(model, Served("writer", 3), Limits(**limits), access)
    with listening(app) as url:
        yield url


@pytest.fixture(scope="module")
def predictor(tiny_writer: Path) -> Predictor:
    return Predictor.load(tiny_writer, threads=1)


def whole(pieces: Any) -> tuple[list[str], Any]:
    """All pieces of a generator, and what it returns."""
    found = []
    while True:
        try:
            found.append(next(pieces))
        except StopIteration as end:
            return found, end.value


def test_pieces_of_any_tokens_make_up_their_text(predictor: Predictor) -> None:
    vocabulary = predictor.encoder.spec().target_vocabulary
    assert vocabulary is not None
    dice = np.random.default_rng(4)
    words = vocabulary.ids("süß 文書 🚀")  # of several tokens each
    for _ in range(300):
        ids = dice.choice([dice.integers(0, vocabulary.size), *words], size=dice.integers(1, 20)).tolist()
        pieces = Pieces(vocabulary)
        found = [*(pieces.add(id) for id in ids), pieces.rest()]
        assert "".join(found) == vocabulary.text(ids)
    pieces = Pieces(vocabulary)
    found = [pieces.add(id) for id in words]
    assert "".join(found) == "süß 文書 🚀"
    assert not any("\ufffd" in piece for piece in found), "a character came in halves"
    assert "" in found


def test_the_stream_of_a_predictor_is_its_answer_with_one_beam(predictor: Predictor) -> None:
    for text in ("nine", "he lost his keys and his mind", "été 🙂"):
        *pieces, row = predictor.stream({"text": text})
        expected = predictor.predict([{"text": text}])[0]
        assert "".join(pieces) == row["answer"] == expected["answer"]
        assert [set(each) for each in row["beams"]] == [{"answer", "score"}]
        assert row["score"] == row["beams"][0]["score"] == pytest.approx(expected["score"], rel=1e-4)
        assert len(pieces) > 3


def test_streams_and_answers_take_turns_and_disturb_nobody(predictor: Predictor) -> None:
    import torch

    one, other = predictor.stream(QUESTION), predictor.stream({"text": "a lovely day"})
    expected = predictor.predict([QUESTION, {"text": "a lovely day"}])
    found: list[list[Any]] = [[], []]
    for _ in range(200):
        assert not torch.is_inference_mode_enabled()
        for bits, stream in zip(found, (one, other), strict=True):
            bits += [bit for bit in [next(stream, None)] if bit is not None]
        predictor.predict([QUESTION])
    assert ["".join(bits[:-1]) for bits in found] == [row["answer"] for row in expected]


def test_what_cannot_be_streamed_says_so(tiny_checkpoint: Path, predictor: Predictor) -> None:
    with pytest.raises(HeliostatError, match="gives its answers whole"):
        next(Predictor.load(tiny_checkpoint).stream(QUESTION))
    with pytest.raises(PredictError, match="text"):
        next(predictor.stream({"text": " "}))


def test_over_http_the_pieces_are_the_answer(predictor: Predictor) -> None:
    expected = predictor.predict([QUESTION])[0]
    with served(predictor) as url, Client(url, timeout=60) as client:
        pieces, answer = whole(client.stream("writer", QUESTION))
        assert "".join(pieces) == expected["answer"]
        assert (
            answer.predictions[0]["answer"] == client.predict("writer", [QUESTION])[0]["answer"] == expected["answer"]
        )
        assert set(answer.predictions[0]) == set(expected)
        assert (answer.name, answer.version) == ("writer", 3)
        raw = httpx.post(f"{url}/v1/models/writer:stream", json={"instances": [QUESTION]}, trust_env=False)
        assert raw.headers["content-type"].startswith("text/event-stream")
        assert raw.headers["x-request-id"]
        assert raw.text.count("event: piece\ndata: {") == len(pieces)
        assert raw.text.count("event: answer\ndata: {") == 1
        assert 'route="stream"' in httpx.get(f"{url}/metrics", trust_env=False).text


def test_pieces_come_as_they_are_written_and_predictions_between_them() -> None:
    model = Typist()
    with served(model) as url, Client(url, timeout=60) as client:
        pieces = client.stream("writer", {"text": "one two three"})
        for count, word in enumerate(("one ", "two ", "three "), start=1):
            model.go.release()
            assert next(pieces) == word
            assert len(model.written) == count
        assert whole(pieces)[1].predictions == [{"answer": "one two three", "score": 0.0, "beams": []}]


def test_a_client_that_goes_away_stops_the_writing() -> None:
    model = Typist()
    with served(model) as url:
        with Client(url, timeout=60) as client:
            pieces = client.stream("writer", {"text": "word " * 500})
            model.go.release()
            next(pieces)
            pieces.close()
            for _ in range(200):  # what is let through until the server has seen that nobody reads
                model.go.release()
                if model.has_stopped.wait(0.05):
                    break
        assert model.has_stopped.is_set()
        assert len(model.written) < 250
        with Client(url, timeout=60) as client:  # and the room is free for others
            assert client.predict("writer", [QUESTION])[0]["answer"] == QUESTION["text"]


def test_every_bad_request_is_refused_as_by_predict(predictor: Predictor) -> None:
    differ = {
        "GET on predict",
        "OPTIONS from another site",
        "DELETE a model",
        "one bad among good",
        "unknown verb of a model",
    }
    cases = [case for case in bad_requests("writer", max_length=4_000) if not case.path and not case.num_chunks]
    with served(predictor, Access(hosts=frozenset({"127.0.0.1"}))) as url:
        for case in (case for case in cases if case.name not in differ):
            response = httpx.post(
                f"{url}/v1/models/writer:stream", content=case.body, headers=dict(case.headers), trust_env=False
            )
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (case.status, case.code), (case.name, error)
            assert MARKER not in response.text
            assert error["request_id"] == response.headers["x-request-id"]
        two = httpx.post(f"{url}/v1/models/writer:stream", json={"instances": [QUESTION] * 2}, trust_env=False)
        assert (two.status_code, two.json()["error"]["message"][:28]) == (413, "A request takes one record a")
        with Client(url) as client, pytest.raises(RefusedError) as refused:
            next(client.stream("writer", {"text": ""}))
        assert (refused.value.status, refused.value.field) == (422, "instances[0].text")


def test_a_model_that_writes_no_text_says_where_to_ask(tiny_checkpoint: Path) -> None:
    with served(Predictor.load(tiny_checkpoint, threads=1)) as url, Client(url) as client:
        with pytest.raises(RefusedError, match="gives its answers whole") as refused:
            next(client.stream("writer", QUESTION))
        assert (refused.value.status, refused.value.code) == (404, "not_streaming")
        assert client.model("writer")["streams"] is False
        assert not any(":stream" in path for path in httpx.get(f"{url}/openapi.json", trust_env=False).json()["paths"])


def test_it_describes_itself_as_greedy(predictor: Predictor) -> None:
    with served(predictor) as url, Client(url) as client:
        assert client.model("writer")["streams"] is True
        route = httpx.get(f"{url}/openapi.json", trust_env=False).json()["paths"]["/v1/models/writer:stream"]["post"]
        assert "The search is greedy" in route["responses"]["200"]["description"]
        assert set(route["responses"]["200"]["content"]) == {"text/event-stream"}
        schema = route["requestBody"]["content"]["application/json"]["schema"]
        assert schema["properties"]["instances"] == {"maxItems": 1}
        assert (
            "curl -N -X POST http://HOST:PORT/v1/models/writer:stream" in httpx.get(f"{url}/docs", trust_env=False).text
        )


def test_no_more_are_written_at_once_than_the_limit_says() -> None:
    model = Typist()
    with served(model, max_streams=1) as url, Client(url, timeout=60) as client:
        first = client.stream("writer", {"text": "one two"})
        model.go.release()
        next(first)
        with Client(url, retry=ONCE) as another, pytest.raises(RefusedError) as refused:
            next(another.stream("writer", {"text": "three"}))
        assert (refused.value.status, refused.value.code) == (503, "queue_full")
        model.go.release()
        assert whole(first)[1].predictions[0]["answer"] == "one two"


def test_an_answer_that_takes_too_long_ends_with_an_event_that_says_so() -> None:
    model = Typist()
    with served(model, timeout_s=1.0) as url, Client(url, timeout=60, retry=ONCE) as client:
        with pytest.raises(RefusedError) as late:  # nothing was said yet: the status can tell
            next(client.stream("writer", {"text": "never"}))
        assert (late.value.status, late.value.code) == (504, "deadline_exceeded")
        model.go.release()  # the thread gets on
        pieces = client.stream("writer", {"text": "one two"})
        model.go.release()
        assert next(pieces) == "one "
        with pytest.raises(RefusedError) as amid:
            next(pieces)
        assert (amid.value.status, amid.value.code) == (200, "deadline_exceeded")
        model.go.release()


def test_what_fails_amid_a_text_is_an_event_without_a_word_of_it() -> None:
    model = Typist()
    model.go.release(2)
    with served(model) as url:
        raw = httpx.post(
            f"{url}/v1/models/writer:stream", json={"instances": [{"text": "one crash"}]}, timeout=60, trust_env=False
        )
    assert raw.status_code == 200
    kind, data = raw.text.strip().split("\n\n")[-1].split("\n")
    assert kind == "event: error"
    error = json.loads(data.removeprefix("data: "))["error"]
    assert (error["code"], error["request_id"]) == ("internal_error", raw.headers["x-request-id"])
    assert "secret" not in raw.text


def test_a_token_guards_the_stream_too() -> None:
    model = Typist()
    model.go.release(9)
    with served(model, Access(token_hash=digest("a-token-of-some-length"))) as url:
        with Client(url) as client, pytest.raises(RefusedError) as refused:
            next(client.stream("writer", QUESTION))
        assert refused.value.status == 401
        with Client(url, token="a-token-of-some-length") as client:
            assert "".join(client.stream("writer", {"text": "one two"})) == "one two "
