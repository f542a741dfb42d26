"""What a deployed model counts about itself, in Prometheus' text format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
INSTANCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class ServeMetrics:
    """Counters of one replica. Every series names the model, its version and the replica that counted."""

    def __init__(self, model: str, version: int, queue_length: Callable[[], int], replica: str = "") -> None:
        self.registry = CollectorRegistry()
        self._labels = {"model": model, "version": str(version), "replica": replica or str(os.getpid())}
        names = list(self._labels)
        registry = self.registry
        by_code = [*names, "route", "code"]
        self._requests = Counter("heliostat_requests", "Answers by route and status code.", by_code, registry=registry)
        seconds = Histogram(
            "heliostat_request_seconds", "Seconds to a prediction.", names, buckets=SECONDS, registry=registry
        )
        instances = Histogram(
            "heliostat_batch_instances", "Records predicted together.", names, buckets=INSTANCES, registry=registry
        )
        tokens = Counter(
            "heliostat_estimated_tokens", "Tokens predicted, a quarter of the characters.", names, registry=registry
        )
        waiting = Gauge("heliostat_queue_length", "Requests that wait.", names, registry=registry)
        self._seconds, self._instances = seconds.labels(**self._labels), instances.labels(**self._labels)
        self._tokens = tokens.labels(**self._labels)
        waiting.labels(**self._labels).set_function(queue_length)

    def answered(self, route: str, code: int, seconds: float) -> None:
        """Count one answer; `route` is a route's own name, never a path that a client made up."""
        self._requests.labels(**self._labels, route=route, code=str(code)).inc()
        if route == "predict":
            self._seconds.observe(seconds)

    def predicted(self, instances: int, tokens: int) -> None:
        """Count one batch."""
        self._instances.observe(instances)
        self._tokens.inc(tokens)

    def text(self) -> bytes:
        """All series, in the text format of Prometheus."""
        return generate_latest(self.registry)


def merged_text(texts: Iterable[bytes]) -> bytes:
    """The series of several models in one text, in which each family stands once, as the format demands."""
    families: dict[bytes, list[bytes]] = {}
    for text in texts:
        for family in text.split(b"# HELP ")[1:]:
            lines = family.splitlines()
            families.setdefault(b"# HELP " + b"\n".join(lines[:2]), []).extend(lines[2:])
    return b"".join(head + b"\n" + b"\n".join(lines) + b"\n" for head, lines in families.items())
