"""One queue for models that share an encoder: what is asked of any of them is predicted in one pass.

Each model has a lane in it, bounded by the model's own limits, so that a flood for one leaves room for the others. What
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
    """A queue with a lane a model; it runs from the start of the first lane to the end of the last."""

    def __init__(self, together: Together, limits: Limits) -> None:
        super().__init__(lambda rows: [], limits)
        self._together = together
        self._lanes: dict[int, Lane] = {}
        self._running = 0

    def lane(
        self, place: int, predict: Predict, limits: Limits, on_batch: Counted | None = None, write: Write | None = None
    ) -> Lane:
        """The lane of a model, with the signature of BatchingQueue. `predict` computes what is not shared: vectors."""
        assert write is None, "models that write piece by piece share with nobody"
        self._lanes[place] = Lane(self, place, predict, limits, on_batch or (lambda instances, tokens: None))
        return self._lanes[place]

    def begin(self) -> None:
        """A lane starts."""
        self._running += 1
        if self._running == 1:
            self.start()

    def end(self) -> None:
        """A lane ends."""
        self._running -= 1
        if self._running == 0:
            self.close()

    def waits(self, place: int) -> int:
        """Requests that wait in a lane."""
        with self._change:
            return sum(waiting.lane == place for waiting in self._waiting)

    def _is_full(self, lane: int) -> bool:
        return sum(waiting.lane == lane for waiting in self._waiting) >= self._limits_of(lane).max_waiting

    def _limits_of(self, lane: int) -> Limits:
        return self._lanes[lane].limits

    def _computed(self, batch: Sequence[Waiting]) -> list[Row]:
        apart = [any(isinstance(row, ToEmbed) for row in waiting.rows) for waiting in batch]
        shared = iter(self._together([(w.lane, w.rows) for w, alone in zip(batch, apart, strict=True) if not alone]))
        found: list[Row] = []
        for waiting, alone in zip(batch, apart, strict=True):
            found += self._lanes[waiting.lane].predict(waiting.rows) if alone else next(shared)
        return found

    def _count(self, batch: Sequence[Waiting]) -> None:
        for place, lane in self._lanes.items():
            own = [waiting for waiting in batch if waiting.lane == place]
            if own:
                lane.on_batch(sum(len(each.rows) for each in own), sum(each.tokens for each in own))


class Lane:
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
        """Take no more; what waits is answered 503 once no lane is left."""
        self._queue.end()

    async def submit(self, rows: Sequence[Row], *, deadline: float) -> list[Row]:
        """As BatchingQueue."""
        return await self._queue.submit(rows, deadline=deadline, lane=self._place)

    async def stream(self, row: Row, *, deadline: float) -> AsyncGenerator[Bit, None]:
        """Refused: no model here writes its answers piece by piece."""
        raise Refusal(404, "not_streaming", "This model gives its answers whole.")
        yield ""
