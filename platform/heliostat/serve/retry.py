"""When a request is sent again, as a pure decision: wait so long, or give up. Both clients act on it.

Waits are drawn evenly between nothing and a bound that doubles (full jitter), so that clients which failed together do
not come back together. A prediction changes nothing, so to send it twice does no harm.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import httpx

BUSY = frozenset({502, 503, 504})
"""Statuses that another try may change; 429 is one where it says when."""

NEVER_ARRIVED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
"""Connections that could not be made, or broke. An answer that takes too long is not among them: it is on its way."""


class Wait(NamedTuple):
    """Try again after so many seconds."""

    seconds: float


class Retry(NamedTuple):
    """How patient a client is."""

    total_s: float = 10.0
    """Seconds from the first try within which another one may begin; 0 tries once."""
    first_s: float = 0.1
    """The bound of the first wait; it doubles with each try."""
    most_s: float = 5.0
    """The most that a bound may be."""

    def after(
        self,
        tries: int,
        elapsed_s: float,
        outcome: httpx.Response | httpx.HTTPError,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> Wait | None:
        """What to do after so many tries, the last of which came to `outcome`; None gives up."""
        told_s = _retry_after(outcome) if isinstance(outcome, httpx.Response) else 0.0
        if isinstance(outcome, httpx.Response):
            is_worth_it = outcome.status_code in BUSY or (outcome.status_code == 429 and told_s is not None)
        else:
            is_worth_it = isinstance(outcome, NEVER_ARRIVED)
        if not is_worth_it:
            return None
        bound = min(self.most_s, self.first_s * 2.0 ** min(tries - 1, 30))
        seconds = (told_s or 0.0) + draw(0.0, bound)
        return Wait(seconds) if elapsed_s + seconds < self.total_s else None


def _retry_after(response: httpx.Response) -> float | None:
    """The seconds that an answer asks to wait; None where it does not say, or names a date."""
    said = response.headers.get("retry-after", "")
    return float(said) if said.isascii() and said.isdigit() and len(said) < 7 else None
