"""What a replica answered in the last minute: how many requests, how many failed, and how long they took."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

MINUTE_S = 60.0
MOST = 1000
"""Times that are kept: of a replica that answers more in a minute, those of its last answers."""


class Recent:
    """Counts of the last minute; a status page shows them, where metrics count since the start."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: deque[tuple[int, int, int]] = deque(maxlen=int(MINUTE_S))
        self._times: deque[tuple[float, float]] = deque(maxlen=MOST)

    def note(self, seconds: float, status: int) -> None:
        """A request was answered; times are those of answers that were no refusals."""
        now = self._clock()
        second, requests, failed = self._counts.pop() if self._counts else (int(now), 0, 0)
        if second != int(now):
            self._counts.append((second, requests, failed))
            requests = failed = 0
        self._counts.append((int(now), requests + 1, failed + (status >= 500)))
        if 200 <= status < 300:
            self._times.append((now, seconds))

    def told(self) -> dict[str, Any]:
        """`requests`, `failed` (answered 500 or above) and the `seconds` of the last minute, as plain values."""
        since = self._clock() - MINUTE_S
        counts = [(requests, failed) for second, requests, failed in list(self._counts) if second > since]
        return {
            "requests": sum(requests for requests, _ in counts),
            "failed": sum(failed for _, failed in counts),
            "seconds": [seconds for when, seconds in list(self._times) if when > since],
        }
