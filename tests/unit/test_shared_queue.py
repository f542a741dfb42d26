"""Several models in one queue: one batch for all, each with its own bound, its own counts and its own errors."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from heliostat.component import Row
from heliostat.errors import DataError
from heliostat.serve.embeddings import ToEmbed
from heliostat.serve.limits import Limits
from heliostat.serve.refusal import Refusal
from heliostat.serve.shared_queue import Line, SharedQueue

Asked = Sequence[tuple[int, Sequence[Row]]]


class Models:
    """Three models that answer while the gate is open, and remember what they were asked together."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[tuple[int, list[Any]]]] = []
        self.counted: dict[int, list[tuple[int, int]]] = {0: [], 1: [], 2: []}

    def predict(self, asked: Asked) -> list[list[Row]]:
        self.batches.append([(model, [row["text"] for row in rows]) for model, rows in asked])
        self.entered.release()
        assert self.open.wait(20)
        if any(row["text"] == "poison" for _, rows in asked for row in rows):
            raise DataError("'poison' cannot be encoded")
        return [[{"said": f"{model} {row['text']}"} for row in rows] for model, rows in asked]

    @contextmanager
    def lines(self, *limits: Limits) -> Iterator[list[Line]]:
        """A running queue with a line for each of these limits."""
        queue = SharedQueue(self.predict, limits[0])
        lines = [
            queue.line(place, self._embed, each, lambda *counts, place=place: self.counted[place].append(counts))
            for place, each in enumerate(limits)
        ]
        for line in lines:
            line.start()
        try:
            yield lines
        finally:
            self.open.set()
            for line in lines:
                line.close()
            assert not queue.is_alive

    def _embed(self, rows: Sequence[Row]) -> list[Row]:
        return [{"vector": row["text"]} for row in rows]


def run(body: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 30))  # type: ignore[arg-type]


def ask(line: Line, *words: str) -> asyncio.Task[list[Row]]:
    rows = [{"text": word} for word in words]
    return asyncio.create_task(line.submit(rows, deadline=time.monotonic() + 20))


async def waiting(lines: Sequence[Line], *counts: int) -> None:
    while [len(line) for line in lines] != list(counts):
        await asyncio.sleep(0.001)


def test_what_waits_for_several_models_is_predicted_together() -> None:
    models = Models()

    async def body() -> None:
        with models.lines(Limits(), Limits()) as lines:
            first = ask(lines[0], "first")
            await asyncio.to_thread(models.entered.acquire)
            tasks = [ask(lines[1], "a", "b"), ask(lines[0], "c"), ask(lines[1], "d")]
            await waiting(lines, 1, 2)
            models.open.set()
            answers = await asyncio.gather(first, *tasks)
            said = [[row["said"] for row in rows] for rows in answers]
            assert said == [["0 first"], ["1 a", "1 b"], ["0 c"], ["1 d"]]
            assert models.batches[1] == [(1, ["a", "b"]), (0, ["c"]), (1, ["d"])]
            assert [count for count, _ in models.counted[0]] == [1, 1]
            assert [count for count, _ in models.counted[1]] == [3]

    run(body)


def test_a_flood_for_one_model_leaves_room_for_the_others() -> None:
    models = Models()

    async def body() -> None:
        with models.lines(Limits(max_waiting=2), Limits(max_waiting=1)) as lines:
            first = ask(lines[0], "first")
            await asyncio.to_thread(models.entered.acquire)
            flood = [ask(lines[0], "x"), ask(lines[0], "y")]
            await waiting(lines, 2, 0)
            with pytest.raises(Refusal) as caught:
                await ask(lines[0], "z")
            assert (caught.value.status, caught.value.code) == (503, "queue_full")
            assert caught.value.message.startswith("2 requests are waiting already")
            other = ask(lines[1], "other")
            await waiting(lines, 2, 1)
            models.open.set()
            assert (await other)[0] == {"said": "1 other"}
            await asyncio.gather(first, *flood)

    run(body)


def test_a_bad_record_for_one_model_hurts_no_other() -> None:
    models = Models()

    async def body() -> None:
        with models.lines(Limits(), Limits()) as lines:
            first = ask(lines[0], "first")
            await asyncio.to_thread(models.entered.acquire)
            bad, good = ask(lines[0], "poison"), ask(lines[1], "good")
            await waiting(lines, 1, 1)
            models.open.set()
            assert await good == [{"said": "1 good"}]
            with pytest.raises(Refusal) as caught:
                await bad
            assert caught.value.status == 422
            await first

    run(body)


def test_vectors_wait_in_the_same_line() -> None:
    models = Models()
    models.open.set()

    async def body() -> None:
        with models.lines(Limits(), Limits()) as lines:
            until = time.monotonic() + 20
            embedded = lines[1].submit([ToEmbed(text="a"), ToEmbed(text="b")], deadline=until)
            found = await asyncio.gather(embedded, lines[0].submit([{"text": "c"}], deadline=until))
            assert found == [[{"vector": "a"}, {"vector": "b"}], [{"said": "0 c"}]]

    run(body)


def test_it_ends_with_its_last_line() -> None:
    models = Models()
    models.open.set()

    async def body() -> None:
        with models.lines(Limits(), Limits(), Limits()) as lines:
            lines[0].close()
            assert (await ask(lines[1], "still"))[0] == {"said": "1 still"}
            lines[0].start()

    run(body)
