"""The batching queue: order, budget, bounds, deadlines, and that nobody pays for a neighbour."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from heliostat.component import Row
from heliostat.errors import DataError, ExampleProblem, PredictError
from heliostat.serve.limits import Limits
from heliostat.serve.queue import BatchingQueue, estimated_tokens
from heliostat.serve.refusal import Refusal


class Gate:
    """Predicts only while it is open, and remembers its batches: what a slow model looks like from outside."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[Any]] = []

    def predict(self, rows: Sequence[Row]) -> list[Row]:
        self.batches.append([row["text"] for row in rows])
        self.entered.release()
        assert self.open.wait(20)
        if any(row["text"] == "poison" for row in rows):
            raise DataError("'poison' cannot be encoded")
        if any(row["text"] == "crash" for row in rows):
            raise RuntimeError("out of memory")
        return [{"echo": row["text"]} for row in rows]


@contextmanager
def started(gate: Gate, **limits: Any) -> Iterator[BatchingQueue]:
    queue = BatchingQueue(gate.predict, Limits(**limits))
    queue.start()
    try:
        yield queue
    finally:
        gate.open.set()
        queue.close()
        assert not queue.is_alive


def soon() -> float:
    return time.monotonic() + 20


def texts(*words: str) -> list[Row]:
    return [{"text": word} for word in words]


async def held(gate: Gate, queue: BatchingQueue) -> asyncio.Task[list[Row]]:
    """Occupy the predicting thread, so that what is submitted next has to wait."""
    first = asyncio.create_task(queue.submit(texts("first"), deadline=soon()))
    await asyncio.to_thread(gate.entered.acquire)
    return first


async def waiting(queue: BatchingQueue, count: int) -> None:
    while len(queue) < count:
        await asyncio.sleep(0.001)


def run(body: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 30))  # type: ignore[arg-type]


def test_what_waits_is_predicted_together_and_each_gets_its_own() -> None:
    gate = Gate()

    async def body() -> None:
        first = await held(gate, queue)
        others = [asyncio.create_task(queue.submit(texts(f"a{n}", f"b{n}"), deadline=soon())) for n in range(5)]
        await waiting(queue, 5)
        gate.open.set()
        assert await first == [{"echo": "first"}]
        for n, answer in enumerate(await asyncio.gather(*others)):
            assert answer == [{"echo": f"a{n}"}, {"echo": f"b{n}"}]

    with started(gate) as queue:
        run(body)
    assert [len(batch) for batch in gate.batches] == [1, 10]


def test_a_batch_stays_within_the_budget_and_one_large_request_goes_alone() -> None:
    gate = Gate()
    long = "x" * 400  # about 100 tokens

    async def body() -> None:
        first = await held(gate, queue)
        sizes = (1, 1, 1, 7, 1)
        others = [asyncio.create_task(queue.submit(texts(*[long] * size), deadline=soon())) for size in sizes]
        await waiting(queue, 5)
        gate.open.set()
        await asyncio.gather(first, *others)

    with started(gate, max_tokens_per_batch=250) as queue:
        run(body)
    assert [len(batch) for batch in gate.batches] == [1, 2, 1, 7, 1]


def test_a_full_queue_says_503_and_when_to_come_back() -> None:
    gate = Gate()

    async def body() -> None:
        first = await held(gate, queue)
        others = [asyncio.create_task(queue.submit(texts("b"), deadline=soon())) for _ in range(3)]
        await waiting(queue, 3)
        with pytest.raises(Refusal) as refused:
            await queue.submit(texts("c"), deadline=soon())
        assert (refused.value.status, refused.value.code) == (503, "queue_full")
        assert int(refused.value.headers["Retry-After"]) >= 1
        gate.open.set()
        await asyncio.gather(first, *others)

    with started(gate, max_waiting=3) as queue:
        run(body)
    assert "c" not in [text for batch in gate.batches for text in batch]


def test_late_says_504_and_leaves_the_queue() -> None:
    gate = Gate()

    async def body() -> None:
        first = await held(gate, queue)
        with pytest.raises(Refusal) as refused:
            await queue.submit(texts("late"), deadline=time.monotonic() + 0.01)
        assert refused.value.status == 504
        assert len(queue) == 0
        gate.open.set()
        await first

    with started(gate) as queue:
        run(body)
    assert gate.batches == [["first"]]


def test_a_client_that_goes_away_is_not_predicted_for() -> None:
    gate = Gate()

    async def body() -> None:
        first = await held(gate, queue)
        gone = asyncio.create_task(queue.submit(texts("gone"), deadline=soon()))
        await waiting(queue, 1)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert len(queue) == 0
        gate.open.set()
        await first

    with started(gate) as queue:
        run(body)
    assert gate.batches == [["first"]]


def test_a_lone_client_that_leaves_while_company_is_waited_for_stops_nothing() -> None:
    gate = Gate()
    gate.open.set()

    async def body() -> None:
        gone = asyncio.create_task(queue.submit(texts("gone"), deadline=soon()))
        await waiting(queue, 1)
        await asyncio.sleep(0.02)  # the thread waits for others by now
        gone.cancel()
        await asyncio.sleep(0.15)
        assert await queue.submit(texts("next"), deadline=time.monotonic() + 2) == [{"echo": "next"}]

    with started(gate, max_wait_ms=100) as queue:
        run(body)
    assert gate.batches == [["next"]]


def test_a_bad_record_hurts_no_neighbour() -> None:
    gate = Gate()

    async def body() -> None:
        first = await held(gate, queue)
        words = ("good", "poison", "fine", "crash")
        others = [asyncio.create_task(queue.submit(texts(word), deadline=soon())) for word in words]
        await waiting(queue, 4)
        gate.open.set()
        await first
        good, poison, fine, crash = await asyncio.gather(*others, return_exceptions=True)
        assert good == [{"echo": "good"}]
        assert fine == [{"echo": "fine"}]
        assert isinstance(poison, Refusal)
        assert (poison.status, poison.code) == (422, "unprocessable_record")
        assert "poison" not in poison.message
        assert isinstance(crash, RuntimeError)

    with started(gate) as queue:
        run(body)


def test_what_the_predictor_refuses_keeps_its_place_and_rule() -> None:
    def refuse(rows: Sequence[Row]) -> list[Row]:
        raise PredictError([ExampleProblem(1, "text", "cannot be encoded.")])

    queue = BatchingQueue(refuse, Limits())
    queue.start()

    async def body() -> None:
        with pytest.raises(Refusal) as refused:
            await queue.submit(texts("a", "b"), deadline=soon())
        assert (refused.value.field, refused.value.message) == ("instances[1].text", "cannot be encoded.")

    run(body)
    queue.close()


def test_a_model_that_loses_answers_is_an_error_and_not_a_shift() -> None:
    queue = BatchingQueue(lambda rows: [{"echo": "only one"}], Limits())
    queue.start()

    async def body() -> None:
        with pytest.raises(RuntimeError, match="2 records"):
            await queue.submit(texts("a", "b"), deadline=soon())

    run(body)
    queue.close()


def test_closing_answers_what_waits() -> None:
    gate = Gate()

    async def body() -> None:
        first = await held(gate, queue)
        other = asyncio.create_task(queue.submit(texts("waits"), deadline=soon()))
        await waiting(queue, 1)
        closing = asyncio.create_task(asyncio.to_thread(queue.close))
        with pytest.raises(Refusal) as refused:
            await other
        assert (refused.value.status, refused.value.code) == (503, "shutting_down")
        gate.open.set()
        assert await first == [{"echo": "first"}]
        await closing
        with pytest.raises(Refusal) as refused:
            await queue.submit(texts("after"), deadline=soon())
        assert refused.value.code == "shutting_down"
        with pytest.raises(Refusal) as refused:
            await anext(queue.stream(texts("after")[0], deadline=soon()))
        assert refused.value.code == "shutting_down"

    with started(gate) as queue:
        run(body)
    assert gate.batches == [["first"]]


def test_tokens_are_estimated_from_all_that_a_record_holds() -> None:
    assert estimated_tokens([{"text": "x" * 400}]) == 101
    assert estimated_tokens([{"text": ""}]) == 1
    assert estimated_tokens([{"items": ["x" * 40] * 10, "n": 3}]) > 100
    assert estimated_tokens([{"fields": {"a": "x" * 80}}]) > 20
