"""Requests wait in a bounded queue; one thread predicts as many together as a token budget allows.

While one batch is predicted the next one gathers, so that batches grow with the load. Clients that were answered
together ask again together: after a batch of several requests the next one waits for as many, for 3 ms at most. A lone
request never waits for company. Prediction runs in a thread of its own: the event loop goes on answering. Answers that
are streamed take turns with the batches: one step each.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from heliostat.component import Row
from heliostat.errors import DataError, PredictError
from heliostat.serve.limits import Limits
from heliostat.serve.refusal import Refusal, closing, late
from heliostat.serve.streams import Bit, Write, Writing, too_many

CHARACTERS_PER_TOKEN = 4
"""A rough English average; the budget needs an order of magnitude, and the predictor counts exactly."""

_AGAIN_S = 0.003

log = logging.getLogger(__name__)

Predict = Callable[[Sequence[Row]], list[Row]]
Counted = Callable[[int, int], None]
"""(records, estimated tokens) of a batch that was predicted."""


def estimated_tokens(rows: Sequence[Row]) -> int:
    """A cheap guess at the tokens of some records, from the characters in them."""
    return sum(1 + _characters(value) // CHARACTERS_PER_TOKEN for row in rows for value in row.values())


def _characters(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, (list, tuple)):
        return sum(CHARACTERS_PER_TOKEN + _characters(item) for item in value)
    if isinstance(value, dict):
        return sum(CHARACTERS_PER_TOKEN + _characters(item) for item in value.values())
    return CHARACTERS_PER_TOKEN


@dataclass(eq=False)
class Waiting:
    """A request in the queue."""

    rows: Sequence[Row]
    tokens: int
    deadline: float
    """On the clock of time.monotonic()."""
    answer: asyncio.Future[list[Row]]
    loop: asyncio.AbstractEventLoop
    line: int = 0  # of several models that share a queue, the one that is asked

    def settle(self, outcome: list[Row] | Exception) -> None:
        """Hand the outcome to the event loop that waits for it; a loop that has ended wants none."""
        try:
            self.loop.call_soon_threadsafe(self._settle, outcome)
        except RuntimeError:
            log.debug("the event loop ended before an answer came")

    def _settle(self, outcome: list[Row] | Exception) -> None:
        if self.answer.done():
            return
        if isinstance(outcome, Exception):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


class BatchingQueue:
    """Bounded, first come first served, batched by tokens. `start` it before use and `close` it after."""

    def __init__(
        self,
        predict: Predict,
        limits: Limits,
        on_batch: Counted | None = None,
        write: Write | None = None,
    ) -> None:
        self._predict = predict
        self._write = write
        self._writings: list[Writing] = []
        self._limits = limits
        self._on_batch = on_batch or (lambda instances, tokens: None)
        self._waiting: deque[Waiting] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._tokens_per_s = 1000.0
        self._last = (1, 0.0)
        """Requests of the last batch, and when they were answered."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_alive(self) -> bool:
        """Whether the predicting thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the predicting thread."""
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="heliostat-predict", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer what waits with 503 and end the thread once its batch is done."""
        with self._change:
            self._closed = True
            left, writings = list(self._waiting), list(self._writings)
            self._waiting.clear()
            self._writings.clear()
            self._change.notify_all()
        for waiting in left:
            waiting.settle(closing())
        for writing in writings:
            writing.hand_on(closing())
        if self._thread is not None:
            self._thread.join(timeout=self._limits.timeout_s)

    async def submit(self, rows: Sequence[Row], *, deadline: float, line: int = 0) -> list[Row]:
        """One prediction a record, in order. `deadline` is on the clock of time.monotonic().

        Raises Refusal: 503 when it is full or closed, 504 when the deadline passes. When the caller is cancelled (its
        client went away) the records leave the queue.
        """
        loop = asyncio.get_running_loop()
        waiting = Waiting(rows, estimated_tokens(rows), deadline, loop.create_future(), loop, line)
        with self._change:
            if self._closed or self._is_full(line):
                raise closing() if self._closed else self._full(self._limits_of(line).max_waiting)
            self._waiting.append(waiting)
            self._change.notify()
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await waiting.answer
        except TimeoutError:
            raise late() from None
        finally:
            self._leave(waiting)

    async def stream(self, row: Row, *, deadline: float) -> AsyncGenerator[Bit, None]:
        """The pieces of the answer to one record as they are written, and last its row.

        Raises Refusal as `submit` does: before the first piece, or amid the text. When the caller is cancelled or
        closes the iterator, the writing stops.
        """
        writing = Writing(row, deadline, asyncio.get_running_loop())
        with self._change:
            if self._closed or len(self._writings) >= self._limits.max_streams:
                raise closing() if self._closed else too_many(len(self._writings))
            self._writings.append(writing)
            self._change.notify()
        try:
            bit: Bit = ""
            while isinstance(bit, str):
                bit = await writing.read()
                yield bit
        finally:
            writing.is_wanted = False

    def _leave(self, waiting: Waiting) -> None:
        with self._change:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    def _is_full(self, line: int) -> bool:
        return len(self._waiting) >= self._limits.max_waiting

    def _limits_of(self, line: int) -> Limits:
        return self._limits

    def _full(self, most: int) -> Refusal:
        tokens = sum(waiting.tokens for waiting in self._waiting)
        seconds = min(60, max(1, math.ceil(tokens / self._tokens_per_s)))
        message = f"{most} requests are waiting already. Try again in {seconds} s."
        return Refusal(503, "queue_full", message, headers={"Retry-After": str(seconds)})

    def _take(self) -> list[Waiting]:
        """The next requests within the budget; none when the queue is closed, or while answers are being written."""
        with self._change:
            is_idle = not self._waiting
            while not self._waiting and not self._closed and not self._writings:
                self._change.wait()
            if is_idle:
                self._gather()
            self._gather_as_before()
            batch: list[Waiting] = []
            tokens = 0
            while self._waiting:
                tokens += self._waiting[0].tokens
                if batch and tokens > self._limits.max_tokens_per_batch:
                    break
                batch.append(self._waiting.popleft())
            return batch

    def _gather(self) -> None:
        """Wait a little for company of the one request that found the queue empty."""
        until = time.monotonic() + self._limits.max_wait_ms / 1000
        while (left := until - time.monotonic()) > 0 and not self._closed and not self._writings:
            if sum(waiting.tokens for waiting in self._waiting) >= self._limits.max_tokens_per_batch:
                return
            self._change.wait(left)

    def _gather_as_before(self) -> None:
        """Wait for those that were just answered, who may ask again."""
        count, answered = self._last
        until = answered + _AGAIN_S
        while len(self._waiting) < count and not self._closed and not self._writings:
            if (left := until - time.monotonic()) <= 0:
                return
            self._change.wait(left)

    def _run(self) -> None:
        while not self._closed:
            batch, now = self._take(), time.monotonic()  # it is empty, too, when those who waited have left
            live = [waiting for waiting in batch if waiting.deadline > now and not waiting.answer.done()]
            if live:
                self._answer(live)
            for writing in list(self._writings):
                self._write_on(writing)

    def _write_on(self, writing: Writing) -> None:
        """One step of an answer that is streamed."""
        assert self._write is not None, "only what can be streamed is"
        goes_on = False
        if writing.bits is None:
            self._on_batch(1, estimated_tokens([writing.row]))
        try:
            goes_on = writing.step(self._write)
        except Exception as error:
            writing.hand_on(self._told(error))
        if not goes_on:
            writing.bits = None  # what it remembers goes now, not when the thread finds something else to do
            with self._change:
                if writing in self._writings:
                    self._writings.remove(writing)

    def _answer(self, batch: Sequence[Waiting]) -> None:
        num_rows = sum(len(waiting.rows) for waiting in batch)
        tokens = sum(waiting.tokens for waiting in batch)
        started = time.monotonic()
        try:
            predictions = self._computed(batch)
            if len(predictions) != num_rows:
                raise RuntimeError(f"{num_rows} records were predicted and {len(predictions)} predictions came back")
        except Exception as error:
            self._apart(batch, error)
            return
        seconds = max(1e-6, time.monotonic() - started)
        self._tokens_per_s = 0.8 * self._tokens_per_s + 0.2 * tokens / seconds
        self._count(batch)
        place = 0
        for waiting in batch:
            waiting.settle(predictions[place : place + len(waiting.rows)])
            place += len(waiting.rows)
        self._last = (len(batch), time.monotonic())

    def _computed(self, batch: Sequence[Waiting]) -> list[Row]:
        return self._predict([row for waiting in batch for row in waiting.rows])

    def _count(self, batch: Sequence[Waiting]) -> None:
        self._on_batch(sum(len(each.rows) for each in batch), sum(each.tokens for each in batch))

    def _apart(self, batch: Sequence[Waiting], error: Exception) -> None:
        """A batch failed: predict each request alone, so that a bad record hurts no neighbour."""
        if len(batch) > 1:
            for waiting in batch:
                self._answer([waiting])
        else:
            batch[0].settle(self._told(error))

    def _told(self, error: Exception) -> Exception:
        """What the client is told of an error; the log names the unexpected ones by their type alone."""
        if isinstance(error, (DataError, PredictError)):
            return _unprocessable(error)
        if not isinstance(error, Refusal):
            log.error("a prediction failed: %s", type(error).__name__)
        return error


def _unprocessable(error: Exception) -> Refusal:
    """What the predictor itself refused. A PredictError names no value; a DataError may, so its sentence stays here."""
    if isinstance(error, PredictError) and error.problems:
        problem = error.problems[0]
        field = f"instances[{problem.index}]" + (f".{problem.field}" if problem.field else "")
        return Refusal(422, "unprocessable_record", problem.rule, field)
    return Refusal(422, "unprocessable_record", "A record cannot be encoded for this model.", "instances")
