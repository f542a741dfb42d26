"""Which version of a model answers a request, while a canary runs beside it; and the shadow that answers in silence.

The switch stands inside the replica of the version in use: what that one answers takes no further hop, and what the
canary answers one. A request is answered by one version whole. It knows no Ray.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, NamedTuple

from heliostat.component import Row, Settings
from heliostat.serve.comparison import Tally
from heliostat.serve.schema import Served

log = logging.getLogger(__name__)

MOST_SHADOWED = 16
"""Requests that a shadow may be answering at a time; those beyond are left out, so that it slows nobody down."""

Sticky = Literal["client", "key", "content"]


class Sender(NamedTuple):
    """Who sent a request, as far as they say."""

    key: str = ""
    """The name of the key."""
    client: str = ""
    """The header X-Client-ID."""


class CanaryRoute(Settings):
    """Where a share of the requests goes."""

    app: str
    version: int
    percent: float
    by: Sticky = "client"


class ShadowRoute(Settings):
    """Where a share of the requests is answered a second time, for nobody."""

    app: str
    version: int
    percent: float


class Routes(Settings):
    """What a replica is told while it runs; a change takes effect without a restart."""

    canary: CanaryRoute | None = None
    shadow: ShadowRoute | None = None


class Answered(NamedTuple):
    """Predictions, and the version that made all of them."""

    rows: list[Row]
    by: Served


Own = Callable[[Sequence[Row], float], Awaitable[list[Row]]]
"""(records, deadline on the clock of time.monotonic()) -> their predictions."""
Other = Callable[[str, Sequence[Row], float], Awaitable[Answered]]
"""(application, records, seconds it may take) -> their predictions; raises whatever keeps it from answering."""


def place_of(salt: str, sender: Sender, by: Sticky, rows: Sequence[Row]) -> float:
    """A number in [0, 100) that is always the same for a sender (or a content, where nobody says who sends).

    Who lies below the percent of a canary stays with it when that rises. `salt` draws each canary's share anew.
    """
    who = sender.client if by == "client" else sender.key if by == "key" else ""
    what = f"{by} {who}" if who else json.dumps(list(rows), sort_keys=True, ensure_ascii=False, default=str)
    hashed = hashlib.sha256(f"{salt} {what}".encode("utf-8", "replace")).digest()
    return int.from_bytes(hashed[:8], "big") / 2**64 * 100


class Switch:
    """Sends each request to one of two versions, and copies some to a third."""

    def __init__(self, served: Served, own: Own) -> None:
        self._served = served
        self._own = own
        self._other: Other | None = None
        self._note: Callable[[str, Tally], None] = lambda what, tally: None
        self._routes = Routes()
        self._shadowing: set[asyncio.Task[None]] = set()

    def connect(self, other: Other, note: Callable[[str, Tally], None]) -> None:
        """How other versions are asked, and who is told what came of it: (`canary` or `shadow`, what to add)."""
        self._other, self._note = other, note

    def turn(self, routes: Routes) -> None:
        """Take these routes from now on; requests under way end where they are."""
        self._routes = routes

    async def answer(self, rows: Sequence[Row], sender: Sender, *, deadline: float) -> Answered:
        """The predictions of one version. A canary that fails costs nobody an answer: this version gives it."""
        canary, shadow = self._routes.canary, self._routes.shadow
        if canary and self._other and place_of(self._salt(canary.version), sender, canary.by, rows) < canary.percent:
            answered = await self._from_canary(canary, rows, deadline)
            if answered is not None:
                return answered
        started = time.monotonic()
        predictions = await self._own(rows, deadline)
        seconds = time.monotonic() - started
        if canary:
            self._note("canary", Tally(own_ms=[seconds * 1000]))
        if shadow and self._other and place_of(self._salt(shadow.version), sender, "content", rows) < shadow.percent:
            self._copy(shadow, rows, predictions, seconds)
        return Answered(predictions, self._served)

    async def _from_canary(self, canary: CanaryRoute, rows: Sequence[Row], deadline: float) -> Answered | None:
        assert self._other is not None
        started = time.monotonic()
        try:
            # Half of what is left: the other half is for this version, should the canary not answer.
            async with asyncio.timeout(max(0.0, deadline - started) / 2):
                answered = await self._other(canary.app, rows, (deadline - started) / 2)
        except Exception as error:
            log.warning("version %s of %s did not answer: %s", canary.version, self._served.name, type(error).__name__)
            self._note("canary", Tally(failed=1))
            return None
        self._note("canary", Tally(answered=1, other_ms=[(time.monotonic() - started) * 1000]))
        return answered

    def _copy(self, shadow: ShadowRoute, rows: Sequence[Row], predictions: list[Row], seconds: float) -> None:
        if len(self._shadowing) >= MOST_SHADOWED:
            self._note("shadow", Tally(left_out=1))
            return
        task = asyncio.create_task(self._shadow(shadow, rows, predictions, seconds))
        self._shadowing.add(task)
        task.add_done_callback(self._shadowing.discard)

    async def _shadow(self, shadow: ShadowRoute, rows: Sequence[Row], predictions: list[Row], seconds: float) -> None:
        assert self._other is not None
        started = time.monotonic()
        try:
            async with asyncio.timeout(30.0):
                answered = await self._other(shadow.app, rows, 30.0)
        except Exception as error:
            log.warning("version %s of %s did not answer: %s", shadow.version, self._served.name, type(error).__name__)
            self._note("shadow", Tally(failed=1))
            return
        tally = Tally(answered=1, own_ms=[seconds * 1000], other_ms=[(time.monotonic() - started) * 1000])
        self._note("shadow", tally.compared(predictions, answered.rows))

    def _salt(self, version: int) -> str:
        return f"{self._served.name}:{version}"


def routes_of(values: dict[str, Any] | None) -> Routes:
    """The routes in what Serve tells a replica."""
    return Routes.model_validate(values or {})
