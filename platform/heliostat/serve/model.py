"""A model as it stands in a replica: behind its routes, with a way to the applications beside it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from heliostat.component import Row
from heliostat.predict import Predictor
from heliostat.serve import ledger
from heliostat.serve.app import ModelRoutes, QueueOf
from heliostat.serve.guard import unexpected
from heliostat.serve.index import ANSWER_S
from heliostat.serve.lane import Lane
from heliostat.serve.limits import Limits
from heliostat.serve.metrics import merged_text
from heliostat.serve.plans import ReplicaPlan
from heliostat.serve.queue import BatchingQueue
from heliostat.serve.refusal import Refusal
from heliostat.serve.relay import Relayed, Reply, ask
from heliostat.serve.request_log import RequestLog
from heliostat.serve.schema import Served
from heliostat.serve.switch import Answered, Routes, routes_of


class ServedModel:
    """One model of a replica, which has answered its golden requests."""

    def __init__(self, predictor: Predictor, plan: ReplicaPlan, queue: QueueOf = BatchingQueue) -> None:
        self._served = plan.served
        self._beside: dict[str, Any] = {}
        self._now = Routes()
        limits, log = Limits.model_validate(plan.limits), RequestLog.model_validate(plan.requests or {})
        self.routes = ModelRoutes(predictor, plan.served, limits, plan.access, ledger.take, log, queue)
        self.routes.switch.connect(self._other, ledger.Telling(self._title).note)
        self.routes.metrics_of_replicas = self._metrics_of_replicas
        self.app: FastAPI = self.routes.app()
        """What answers over HTTP."""
        self.app.router.lifespan_context = self.lifespan
        self._lane = Lane(self.app, plan.served.name, limits.timeout_s)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """The model takes requests while inside."""
        async with self.routes.lifespan(app):
            yield
            await self._lane.turn(False)  # what it has is answered while the model still answers

    async def turn(self, routes: dict[str, Any], *, by_lane: bool) -> None:
        """Send requests where these routes say from now on, and take them by the lane, or no more."""
        self._now = routes_of(routes)
        self.routes.switch.turn(self._now)
        await self._lane.turn(by_lane)

    async def answer(self, rows: Sequence[Row], seconds: float) -> Any:
        """The predictions for records that another version hands on, or a refusal as plain values that travel."""
        try:
            checked = self.routes.checked(rows)
            return [await self.routes.rows_answered(checked, time.monotonic() + seconds), *self._served]
        except Refusal as refusal:
            return vars(refusal)

    async def _other(self, app: str, rows: Sequence[Row], seconds: float) -> Answered:
        """The predictions of the version in another application. Raises whatever keeps it from answering."""
        told = await self._handle(app).answer.remote(list(rows), seconds)
        if isinstance(told, dict):
            raise Refusal(**told)
        predictions, name, version = told
        return Answered(predictions, Served(name, version))

    def _title(self, what: str) -> str:
        other = self._now.canary if what == "canary" else self._now.shadow
        return f"{what} {self._served.name} {self._served.version} {other.version if other else '?'}"

    async def metrics(self) -> bytes:
        """As `GET /metrics` of the model, for the index."""
        return merged_text(await self._metrics_of_replicas())

    async def _metrics_of_replicas(self) -> list[bytes]:
        """The metrics of every replica, a canary's and a shadow's too: a scrape reaches one, whichever it is."""
        beside = [route.app for route in (self._now.canary, self._now.shadow) if route]
        apps = [serve.get_replica_context().app_name, *beside]
        texts = await asyncio.gather(
            *(every_answer(self._handle(app), "own_metrics", self._served.name) for app in apps)
        )
        own, *others = texts
        return [text for texts in (own or [self.routes.metrics_text()], *others) for text in texts]

    def recent(self) -> dict[str, Any]:
        """What this replica answered in the last minute, and the versions that stand beside it, for the gallery."""
        beside = {"canary": self._now.canary, "shadow": self._now.shadow}
        return {**self.routes.recent(), **{kind: route.version for kind, route in beside.items() if route}}

    def _handle(self, app: str) -> Any:
        if app not in self._beside:
            self._beside[app] = DeploymentHandle("Replica", app)
        return self._beside[app]

    async def relay(self, request: Relayed) -> Reply:
        """A request that the index hands on, answered by this model's application."""
        return await ask(self.app, request)

    async def stream(self, body: bytes, request_id: str) -> AsyncGenerator[str | dict[str, Any], None]:
        """As `POST :stream`, for the index: its events, or a refusal as plain values that travel."""
        events = self.routes.events(body, time.monotonic(), request_id)
        try:
            async for each in events:
                yield each
        except Refusal as refusal:
            yield vars(refusal)
        except Exception as error:  # it has answered, if only so: what asks again does so where a replica died
            yield vars(unexpected(error, request_id))
        finally:
            await events.aclose()


async def every_answer(handle: Any, method: str, name: str) -> list[Any]:
    """What each replica behind a handle answers for a model; one that does not is left out."""
    try:
        answers = await handle.broadcast(method, name).results_async(timeout_s=ANSWER_S, return_exceptions=True)
    except Exception:  # none of them is there yet, or any more
        return []
    return [answer for answer in answers if not isinstance(answer, BaseException)]
