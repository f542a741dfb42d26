"""One queue for models that share an encoder: what is asked of any of them is predicted in one pass.

Each model has a line in it, bounded by the model's own limits, so that a flood for one leaves room for the others. What
waits is taken first come first served, whichever model it asks.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence

from heliostat.component import Row
from heliostat.serve.embeddings import ToEmbed
from heliostat.serve.limits import Limits
from heliostat.serve.queue import BatchingQueue, Counted, Predict, Waiting
from heliostat.serve.refusal import Refusal
from heliostat.serve.streams import Bit, Write

Together = Callable[[Sequence[tuple[int, Sequence[Row]]]], list[list[Row]]]
"""(model, records) pairs -> the predictions of each, as SharedPredictors.predict."""


class SharedQueue(BatchingQueue):
    """A queue with a line a model; it runs from the start of the first line to the end of the last."""

    def __init__(self, together: Together, limits: Limits) -> None:
        super().__init__(lambda rows: [], limits)
        self._together = together
        self._lines: dict[int, Line] = {}
        self._running = 0

    def line(
        self, place: int, predict: Predict, limits: Limits, on_batch: Counted | None = None, write: Write | None = None
    ) -> Line:
        """The line of a model, with the signature of BatchingQueue. `predict` computes what is not shared: vectors."""
        assert write is None, "models that write piece by piece share with nobody"
        self._lines[place] = Line(self, place, predict, limits, on_batch or (lambda instances, tokens: None))
        return self._lines[place]

    def begin(self) -> None:
        """A line starts."""
        self._running += 1
        if self._running == 1:
            self.start()

    def end(self) -> None:
        """A line ends."""
        self._running -= 1
        if self._running == 0:
            self.close()

    def waits(self, place: int) -> int:
        """Requests that wait in a line."""
        with self._change:
            return sum(waiting.line == place for waiting in self._waiting)

    def _is_full(self, line: int) -> bool:
        return sum(waiting.line == line for waiting in self._waiting) >= self._limits_of(line).max_waiting

    def _limits_of(self, line: int) -> Limits:
        return self._lines[line].limits

    def _computed(self, batch: Sequence[Waiting]) -> list[Row]:
        apart = [any(isinstance(row, ToEmbed) for row in waiting.rows) for waiting in batch]
        shared = iter(self._together([(w.line, w.rows) for w, alone in zip(batch, apart, strict=True) if not alone]))
        found: list[Row] = []
        for waiting, alone in zip(batch, apart, strict=True):
            found += self._lines[waiting.line].predict(waiting.rows) if alone else next(shared)
        return found

    def _count(self, batch: Sequence[Waiting]) -> None:
        for place, line in self._lines.items():
            own = [waiting for waiting in batch if waiting.line == place]
            if own:
                line.on_batch(sum(len(each.rows) for each in own), sum(each.tokens for each in own))


class Line:
    """One model's place in a shared queue; used as a BatchingQueue."""

    def __init__(self, queue: SharedQueue, place: int, predict: Predict, limits: Limits, on_batch: Counted) -> None:
        self._queue = queue
        self._place = place
        self.predict = predict
        self.limits = limits
        self.on_batch = on_batch

    def __len__(self) -> int:
        return self._queue.waits(self._place)

    @property
    def is_alive(self) -> bool:
        """Whether the predicting thread runs."""
        return self._queue.is_alive

    def start(self) -> None:
        """Take requests."""
        self._queue.begin()

    def close(self) -> None:
        """Take no more; what waits is answered 503 once no line is left."""
        self._queue.end()

    async def submit(self, rows: Sequence[Row], *, deadline: float) -> list[Row]:
        """As BatchingQueue."""
        return await self._queue.submit(rows, deadline=deadline, line=self._place)

    async def stream(self, row: Row, *, deadline: float) -> AsyncGenerator[Bit, None]:
        """Refused: no model here writes its answers piece by piece."""
        raise Refusal(404, "not_streaming", "This model gives its answers whole.")
        yield ""
