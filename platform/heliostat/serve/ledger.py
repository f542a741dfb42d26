"""What all replicas of a deployment count together: the rates of keys, and how two versions compare.

One actor of Ray's, started by the first that needs it. It is asked for a few requests at once, and told twice a second.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import cache
from typing import Any

from heliostat.serve.comparison import Tally
from heliostat.serve.rates import Buckets, Grant

NAME, NAMESPACE = "heliostat-ledger", "heliostat"
_TELL_EVERY_S = 0.5


class Ledger:
    """The counts. It holds names of keys, and nothing of a request."""

    def __init__(self) -> None:
        self._buckets = Buckets()
        self._tallies: dict[str, Tally] = {}

    def take(self, name: str, per_minute: int, wanted: int) -> tuple[int, float]:
        """As `Buckets.take`, as plain values."""
        grant = self._buckets.take(name, per_minute, wanted)
        return grant.given, grant.wait_s

    def tell(self, what: str, tally: dict[str, Any]) -> None:
        """Add to what is known of `what`."""
        self._tallies.setdefault(what, Tally()).add(Tally(**tally))

    def reports(self) -> dict[str, dict[str, Any]]:
        """What is known, by what was told: `canary mood 3 4`."""
        return {what: tally.report() for what, tally in self._tallies.items()}


@cache
def ledger() -> Any:
    """The actor, for a replica; it is started when there is none, and again when it dies (then it counts anew)."""
    import ray

    options = {"name": NAME, "namespace": NAMESPACE, "get_if_exists": True, "lifetime": "detached"}
    return ray.remote(Ledger).options(**options, num_cpus=0, max_restarts=-1).remote()


def end_ledger() -> None:
    """End the actor, where there is one: it would outlive us on a Ray that is not our own."""
    import ray

    with contextlib.suppress(Exception):
        ray.kill(ray.get_actor(NAME, namespace=NAMESPACE))


def reports() -> dict[str, dict[str, Any]]:
    """What the replicas have told; empty where nothing was counted."""
    import ray

    try:
        actor = ray.get_actor(NAME, namespace=NAMESPACE)
    except ValueError:
        return {}
    found: dict[str, dict[str, Any]] = ray.get(actor.reports.remote(), timeout=5.0)
    return found


async def take(name: str, per_minute: int, wanted: int) -> Grant:
    """A few requests of a key, from the one place that counts them."""
    async with asyncio.timeout(1.0):
        return Grant(*await ledger().take.remote(name, per_minute, wanted))


class Telling:
    """Gathers what a replica has to tell, and tells it now and then."""

    def __init__(self, prefix: Callable[[str], str]) -> None:
        self._prefix = prefix
        self._tallies: dict[str, Tally] = {}
        self._is_due = False

    def note(self, what: str, tally: Tally) -> None:
        """Remember it; called in the event loop."""
        self._tallies.setdefault(self._prefix(what), Tally()).add(tally)
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(_TELL_EVERY_S, self._tell)

    def _tell(self) -> None:
        self._is_due = False
        tallies, self._tallies = self._tallies, {}
        for what, tally in tallies.items():
            ledger().tell.remote(what, tally.dump())
