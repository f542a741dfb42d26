"""What a deployed model counts about itself, in Prometheus' text format.

Every label takes few values: a route is one of ours by its own name, a kind of error one of our words, never anything
that a client made up.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
INSTANCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
FILL = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)

TIMED = frozenset({"predict", "infer", "embeddings"})
"""Routes whose seconds are measured: those that wait for a model and answer whole."""


class ServeMetrics:
    """Counters of one replica. Every series names the model, its version and the replica that counted.

    Without `queue_length` there is no model behind it, but the index above several.
    """

    def __init__(
        self,
        model: str,
        version: int,
        queue_length: Callable[[], int] | None,
        replica: str = "",
        *,
        budget: int = 8192,
        is_ready: Callable[[], bool] = lambda: True,
    ) -> None:
        self.registry = CollectorRegistry()
        own = replica or f"{socket.gethostname()}-{os.getpid()}"
        self._labels = {"model": model, "version": str(version), "replica": own}
        self._budget = budget
        self._requests = self._counter("heliostat_requests", "Answers by route and status code.", "route", "code")
        self._errors = self._counter("heliostat_errors", "Refusals and failures by route and kind.", "route", "kind")
        self._seconds = self._histogram("heliostat_request_seconds", "Seconds to an answer.", SECONDS, "route")
        self._instances = self._histogram("heliostat_batch_instances", "Records computed together.", INSTANCES)
        self._fill = self._histogram(
            "heliostat_batch_fill", "Estimated tokens of a batch, as a share of its budget.", FILL
        )
        self._tokens = self._counter("heliostat_estimated_tokens", "Tokens computed, a quarter of the characters.")
        self._kept = self._counter("heliostat_requests_kept", "Requests handed to the request log.")
        self._left_out = self._counter("heliostat_requests_left_out", "Requests that the request log had no time for.")
        if queue_length is not None:
            self._gauge("heliostat_queue_length", "Requests that wait.", queue_length)
            self._gauge("heliostat_ready", "1 while the model takes requests.", lambda: float(is_ready()))
            self._gauge("heliostat_model_version", "The version that answers.", lambda: float(version))

    def answered(self, route: str, code: int, seconds: float, kind: str = "") -> None:
        """Count one answer. `route` is a route's own name, `kind` the code of its refusal where it is one."""
        self._requests.labels(**self._labels, route=route, code=str(code)).inc()
        if kind:
            self._errors.labels(**self._labels, route=route, kind=kind).inc()
        if route in TIMED:
            self._seconds.labels(**self._labels, route=route).observe(seconds)

    def predicted(self, instances: int, tokens: int) -> None:
        """Count one batch."""
        self._instances.labels(**self._labels).observe(instances)
        self._fill.labels(**self._labels).observe(tokens / self._budget)
        self._tokens.labels(**self._labels).inc(tokens)

    def kept(self, is_kept: bool) -> None:
        """Count a request that the request log took, or had no time for."""
        (self._kept if is_kept else self._left_out).labels(**self._labels).inc()

    def text(self) -> bytes:
        """All series, in the text format of Prometheus."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *more: str) -> Counter:
        return Counter(name, text, [*self._labels, *more], registry=self.registry)

    def _gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        Gauge(name, text, list(self._labels), registry=self.registry).labels(**self._labels).set_function(read)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *more: str) -> Histogram:
        return Histogram(name, text, [*self._labels, *more], buckets=buckets, registry=self.registry)


def merged_text(texts: Iterable[bytes]) -> bytes:
    """The series of several models in one text, in which each family stands once, as the format demands."""
    families: dict[bytes, list[bytes]] = {}
    for text in texts:
        for family in text.split(b"# HELP ")[1:]:
            lines = family.splitlines()
            families.setdefault(b"# HELP " + b"\n".join(lines[:2]), []).extend(lines[2:])
    return b"".join(head + b"\n" + b"\n".join(lines) + b"\n" for head, lines in families.items())
