"""How many requests each key may send: token buckets in one place, of which every replica fetches a few at a time."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

log = logging.getLogger(__name__)

BLOCK_S = 0.1
"""A replica fetches what a key may send in this time, so that a busy key costs one question for many requests."""
MOST_AT_ONCE = 64
_STALE_S = 1.0
"""What a replica fetched and did not use by then is forgotten: another one may need it."""


class Grant(NamedTuple):
    """What a bucket gave."""

    given: int
    wait_s: float = 0.0
    """Seconds until there is one, when there was none."""


Take = Callable[[str, int, int], Awaitable[Grant]]
"""(name, requests a minute, how many are wanted) -> what there is."""


class Buckets:
    """One bucket a name: it fills evenly to what the name may send in a minute, and a request takes one out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, name: str, per_minute: int, wanted: int) -> Grant:
        """Up to `wanted` requests. Names come from the keys, so there are few."""
        now = self._clock()
        level, since = self._levels.get(name, (float(per_minute), now))
        level = min(float(per_minute), level + (now - since) * per_minute / 60)
        given = min(wanted, int(level))
        self._levels[name] = (level - given, now)
        return Grant(given) if given else Grant(0, (1 - level) * 60 / per_minute)


class Allowance:
    """What one replica has fetched for each key and not spent yet.

    However many replicas there are, together they let through no more than the buckets hold: what is fetched is taken
    out first. When the buckets do not answer, requests are let through: a limit is no reason to answer nobody.
    """

    def __init__(self, take: Take, clock: Callable[[], float] = time.monotonic) -> None:
        self._take = take
        self._clock = clock
        self._left: dict[str, tuple[int, float]] = {}
        self._refused: dict[str, tuple[float, float]] = {}
        """Until when nobody asks again, and when there is one."""
        self._asking: dict[str, asyncio.Task[int | None]] = {}
        self._waiting: Counter[str] = Counter()

    async def spend(self, name: str, per_minute: int) -> int:
        """Take one request of `name`: 0 when it may go, or else the seconds after which to try again."""
        while True:
            now = self._clock()
            until, there = self._refused.get(name, (0.0, 0.0))
            if until > now:
                return max(1, math.ceil(there - now))
            count, fetched = self._left.get(name, (0, now))
            if count and now - fetched < _STALE_S:
                self._left[name] = (count - 1, fetched)
                return 0
            told = await self._fetched(name, per_minute)
            if told is not None:
                return told

    async def _fetched(self, name: str, per_minute: int) -> int | None:
        """Wait for the one fetch of a name: were there several, each would put its block in place of the others'."""
        self._waiting[name] += 1
        try:
            if name not in self._asking:
                task = self._asking[name] = asyncio.get_running_loop().create_task(self._fetch(name, per_minute))
                task.add_done_callback(lambda _: self._asking.pop(name))
            return await asyncio.shield(self._asking[name])  # who leaves takes nothing from the others
        finally:
            self._waiting[name] -= 1

    async def _fetch(self, name: str, per_minute: int) -> int | None:
        """None when there are some now; 0 when they cannot be counted; or else the seconds until there is one."""
        wanted = min(MOST_AT_ONCE, max(1, self._waiting[name], int(per_minute / 60 * BLOCK_S)))
        try:
            grant = await self._take(name, per_minute, wanted)
        except Exception as error:
            log.error("the rate of %s cannot be counted now: %s", name, type(error).__name__)
            return 0
        now = self._clock()
        if not grant.given:
            # Not asked again before there is one: who sends too much costs no question a request.
            self._refused[name] = (now + min(grant.wait_s, _STALE_S), now + grant.wait_s)
            return max(1, math.ceil(grant.wait_s))
        self._left[name] = (grant.given, now)
        return None
