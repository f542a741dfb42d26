"""More requests than a deployment can answer: some are told to come back, and memory stays flat."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import pytest

from heliostat.serve.deployment import Deployment

NUM_CLIENTS = 24
MINUTES = 2.0
SERVING = ("ServeReplica", "ProxyActor", "ServeController")


@contextmanager
def overload(url: str) -> Iterator[list[tuple[int, str, str]]]:
    """24 clients that never rest; status, error code and Retry-After of each answer."""
    body = {"instances": [{"text": "word " * 60}] * 100}
    answers: list[tuple[int, str, str]] = []
    stop = threading.Event()

    def ask(_: int) -> None:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            while not stop.is_set():
                answer = client.post("/v1/models/mood:predict", json=body)
                code = "" if answer.is_success else answer.json()["error"]["code"]
                answers.append((answer.status_code, code, answer.headers.get("retry-after", "")))

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        asked = [pool.submit(ask, number) for number in range(NUM_CLIENTS)]
        try:
            yield answers
        finally:
            stop.set()
        for each in asked:
            each.result()


def in_order(answers: list[tuple[int, str, str]]) -> Counter[int]:
    """How many of each status, after a look at each refusal."""
    for status, code, retry_after in answers:
        if status == 503:
            assert int(retry_after) >= 1
            assert code in ("queue_full", "unavailable")
    codes = Counter(status for status, _, _ in answers)
    assert set(codes) == {200, 503}
    return codes


@pytest.mark.fault(
    "24 clients ask for more than two replicas can answer",
    seen="200, or 503 queue_full with Retry-After",
    lost="what was refused, until the client asks again",
    proof="every answer is one of the two",
)
def test_too_many_requests_are_told_to_come_back(stage: Any, deployment: Deployment) -> None:
    deployment.update(stage.settings(limits={"max_waiting": 1}))
    with overload(deployment.url) as answers:
        stage.wait_until(lambda: len(answers) >= 6 * NUM_CLIENTS, "answers")
        stage.wait_until(lambda: {status for status, _, _ in answers} == {200, 503}, "both")
    print(f"\noverload: {dict(in_order(answers))}")
    deployment.update(stage.settings())


def held_mb(stage: Any) -> dict[str, float]:
    """Memory of the processes that serve, by what they are."""
    held: dict[str, float] = {}
    for name in SERVING:
        for process in stage.named(name):
            try:
                held[name] = held.get(name, 0.0) + process.memory_info().rss / 1e6
            except psutil.NoSuchProcess:
                continue
    return held


@pytest.mark.sweep
@pytest.mark.fault(
    "the same for two minutes",
    seen="200, or 503 queue_full with Retry-After, to the end",
    lost="what was refused; memory stays flat",
    proof="the serving processes hold no more after two minutes than after half of one, but 5 %",
)
def test_two_minutes_of_overload_take_no_memory(stage: Any, deployment: Deployment) -> None:
    deployment.update(stage.settings(limits={"max_waiting": 4}))
    before = stage.replicas()
    with overload(deployment.url) as answers:
        time.sleep(MINUTES * 60 / 4)
        first = held_mb(stage)
        time.sleep(MINUTES * 60 * 3 / 4)
        last = held_mb(stage)
    codes = in_order(answers)
    print(f"\n{sum(codes.values())} answers, {dict(codes)}; MB after half a minute {first}, after two {last}")
    assert stage.replicas() == before, "nobody died of it"
    assert sum(last.values()) < 1.05 * sum(first.values())
    deployment.update(stage.settings())
