"""What a gallery is made of: sessions that end, words shown while they are written, a minute of requests, cards."""

from __future__ import annotations

import html
from itertools import pairwise
from pathlib import Path

import pytest

from heliostat.demo.strip import draw_strip, load_of
from heliostat.demo.visitors import MOST, SIGNED_IN_S, Visitors
from heliostat.errors import ServeError
from heliostat.serve.app import build_app
from heliostat.serve.client import Client
from heliostat.serve.keys import KeyRing, drop_key, new_key
from heliostat.serve.recent import Recent
from heliostat.serve.schema import Served
from heliostat.testing.serving import listening


class Clock:
    """Time that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_session_ends_with_its_time_its_key_and_the_room_for_it(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys.json", Clock()
    key = new_key(path, "web")
    visitors = Visitors(KeyRing(KeyRing.at(path)._keys, path, clock), clock)
    cookie = visitors.sign_in(key)
    assert cookie
    assert visitors.key_of(cookie) == key
    assert visitors.key_of("made up") is None
    clock.now += SIGNED_IN_S + 1
    assert visitors.key_of(cookie) is None
    first, *_, last = (visitors.sign_in(key) or "" for _ in range(MOST + 1))
    assert visitors.key_of(first) is None
    assert visitors.key_of(last) == key
    drop_key(path, "web")
    clock.now += 2
    assert visitors.key_of(last) is None


def test_words_are_shown_while_they_are_written(tiny_writer: Path) -> None:
    from heliostat.demo.page import Panel, build_page
    from heliostat.predict import Predictor

    with listening(build_app(Predictor.load(tiny_writer), Served("writer", 1))) as url, Client(url) as client:
        ask = next(fn for fn in build_page(client, "writer").fns.values() if fn.api_name == "ask-writer")
        *before, last = [Panel(*shown) for shown in ask.fn(None, "the table has four legs")]
    assert len(before) > 3
    words = [str(each.picture.value) for each in before]
    assert all(len(first) < len(second) for first, second in pairwise(words))
    assert all("being written" in each.facts for each in before)
    assert html.escape(last.asked["prediction"]["answer"]) in words[-1]  # of one beam the search finds the same
    assert "answered by **writer** version **1**" in last.facts


def test_the_last_minute_is_counted_and_older_ones_forgotten() -> None:
    clock = Clock()
    recent = Recent(clock)
    for status in (200, 200, 500, 422):
        recent.note(0.01, status)
    clock.now += 30
    recent.note(0.03, 200)
    assert recent.told() == {"requests": 5, "failed": 1, "seconds": [0.01, 0.01, 0.03]}
    clock.now += 40
    assert recent.told() == {"requests": 1, "failed": 0, "seconds": [0.03]}
    clock.now += 30
    assert recent.told() == {"requests": 0, "failed": 0, "seconds": []}


def test_replicas_are_put_together_on_a_card() -> None:
    told = {"version": 3, "ready": True, "waiting": 1, "requests": 2, "failed": 0, "seconds": [0.001, 0.02]}
    load = load_of("loan", [{**told, "canary": 4}, {**told, "version": 2, "seconds": [0.003, 0.5]}])
    assert (load.versions, load.replicas, load.beside) == ((2, 3), 2, ("canary 4",))
    assert (load.requests, load.waiting, load.p50_ms, load.p95_ms) == (4, 2, 3.0, 500.0)
    drawn = draw_strip([load, load_of("<gone>", [])])
    for words in (
        "version 2 and 3",
        "canary 4",
        "2 replicas",
        "3.0 ms",
        "500 ms",
        "does not answer now",
        "&lt;gone&gt;",
    ):
        assert words in drawn
    assert "None" not in drawn


def test_a_port_that_is_taken_is_told_with_the_way_out(tiny_writer: Path) -> None:
    from heliostat.demo.launch import opened
    from heliostat.predict import Predictor

    with (
        listening(build_app(Predictor.load(tiny_writer), Served("writer", 1))) as url,
        Client(url) as client,
        pytest.raises(ServeError, match=r"cannot listen on 127.0.0.1, port \d+ .*--port 0"),
        opened(client, "writer", port=int(url.rpartition(":")[2])),
    ):
        pass
