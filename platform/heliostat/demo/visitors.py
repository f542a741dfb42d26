"""Who is signed in to the gallery: a cookie of no meaning stands for the key that was entered, in memory alone."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

from heliostat.serve.keys import KeyRing
from heliostat.serve.token import digest

SIGNED_IN_S = 12 * 3600.0
"""Seconds after which a key is asked for again."""
MOST = 1000
"""Visitors at a time; the one who came first goes first."""


class _Visitor(NamedTuple):
    key: str
    until: float


class Visitors:
    """The sessions of one gallery. A key that is dropped or expires ends its sessions at once."""

    def __init__(self, ring: KeyRing | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._ring = ring
        self._clock = clock
        self._there: dict[str, _Visitor] = {}

    @property
    def need_key(self) -> bool:
        """Whether anybody must sign in."""
        return self._ring is not None

    def sign_in(self, given: str) -> str | None:
        """The cookie for a valid key; None for any other."""
        if self._ring is None or self._ring.holder(given) is None:
            return None
        if len(self._there) >= MOST:
            del self._there[next(iter(self._there))]
        cookie = secrets.token_urlsafe(32)
        self._there[digest(cookie)] = _Visitor(given, self._clock() + SIGNED_IN_S)
        return cookie

    def key_of(self, cookie: str) -> str | None:
        """The key behind a cookie, while both are valid."""
        visitor = self._there.get(digest(cookie))
        if visitor is None or self._ring is None:
            return None
        if self._clock() > visitor.until or self._ring.holder(visitor.key) is None:
            self.sign_out(cookie)
            return None
        return visitor.key

    def sign_out(self, cookie: str) -> None:
        """Forget a visitor."""
        self._there.pop(digest(cookie), None)
