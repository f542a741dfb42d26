"""What is noted of every request that one replica answers: counters, a line of JSON, and the records that are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.types import Scope

from heliostat.component import Row
from heliostat.plugin import TaskHead
from heliostat.serve.limits import Limits
from heliostat.serve.metrics import TIMED, ServeMetrics
from heliostat.serve.recent import Recent
from heliostat.serve.request_log import KeptRequests, RequestLines, RequestLog
from heliostat.serve.schema import Served


class Watch:
    """Notes what happens; `start` it with the application and `close` it after."""

    def __init__(
        self,
        head: TaskHead,
        served: Served,
        limits: Limits,
        settings: RequestLog,
        *,
        queue_length: Callable[[], int],
        is_ready: Callable[[], bool],
    ) -> None:
        budget = limits.max_tokens_per_batch
        self.metrics = ServeMetrics(served.name, served.version, queue_length, budget=budget, is_ready=is_ready)
        """What it counts."""
        self.recent = Recent()
        """What was asked of the model in the last minute."""
        self._routes: Mapping[str, str] = {}
        self._lines = RequestLines(served) if settings.lines else None
        self._kept = KeptRequests(served, head, settings) if settings.keep else None

    def name_routes(self, names: Mapping[str, str]) -> None:
        """Each path with the name under which it is counted; any other path is `other`."""
        self._routes = names

    def start(self) -> None:
        """Start what writes."""
        if self._kept:
            self._kept.start()

    def close(self) -> None:
        """Write what waits."""
        if self._kept:
            self._kept.close()
        if self._lines:
            self._lines.close()

    def answered(self, scope: Scope, status: int, seconds: float) -> None:
        """A request has its answer."""
        route, kind = self._routes.get(scope["path"], "other"), scope.get("heliostat.error", "")
        self.metrics.answered(route, status, seconds, kind)
        if route in TIMED:
            self.recent.note(seconds, status)
        if self._lines:
            self._lines.write(scope["heliostat.id"], route, status, seconds, kind, scope.get("heliostat.key", ""))

    def predicted(self, scope: Mapping[str, Any], rows: Sequence[Row], answers: Sequence[Row], version: int) -> None:
        """Records were predicted, by this version or another one."""
        if self._kept:
            is_kept = self._kept.add(scope["heliostat.id"], rows, answers, version)
            if is_kept is not None:
                self.metrics.kept(is_kept)
