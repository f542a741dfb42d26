"""Answers that are handed on while they are being written: the predicting thread gives each one step a turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from heliostat.component import Row
from heliostat.serve.refusal import Refusal, late

Bit = str | Row
"""A piece of text, or last the whole row."""
Write = Callable[[Row], Iterator[Bit]]
"""As `Predictor.stream`."""


@dataclass(eq=False)
class Writing:
    """One answer on its way, between the thread that writes it and the event loop that hands it on."""

    row: Row
    deadline: float
    """On the clock of time.monotonic()."""
    loop: asyncio.AbstractEventLoop
    inbox: asyncio.Queue[Bit | Exception] = field(default_factory=asyncio.Queue)
    bits: Iterator[Bit] | None = None
    """Begun by the thread, at its first step."""
    is_wanted: bool = True
    """Whether somebody still reads."""

    def step(self, write: Write) -> bool:
        """Hand on the next bit; whether there are more to come. In the predicting thread. Raises what `write` does."""
        if not self.is_wanted:
            return False
        if time.monotonic() > self.deadline:
            raise late()
        self.bits = self.bits or write(self.row)
        bit = next(self.bits, None)
        if bit is None:
            raise RuntimeError("an answer ended without its row")
        self.hand_on(bit)
        return isinstance(bit, str)

    def hand_on(self, bit: Bit | Exception) -> None:
        """To the event loop; one that has ended wants none."""
        try:
            self.loop.call_soon_threadsafe(self.inbox.put_nowait, bit)
        except RuntimeError:
            self.is_wanted = False

    async def read(self) -> Bit:
        """The next bit. Raises what the thread met, and Refusal (504) when the deadline passes first."""
        try:
            async with asyncio.timeout(max(0.0, self.deadline - time.monotonic())):
                bit = await self.inbox.get()
        except TimeoutError:
            raise late() from None
        if isinstance(bit, Exception):
            raise bit
        return bit


def too_many(count: int) -> Refusal:
    """More answers are being written than there may be."""
    message = f"{count} answers are being written already. Try again in 1 s, or ask ':predict'."
    return Refusal(503, "queue_full", message, headers={"Retry-After": "1"})
