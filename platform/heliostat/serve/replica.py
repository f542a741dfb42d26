"""What Serve runs: a model behind its application, its golden requests answered first; and the index above several."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heliostat.component import Row
from heliostat.predict import Predictor
from heliostat.serve import ledger
from heliostat.serve.app import ModelRoutes
from heliostat.serve.events import Events
from heliostat.serve.guard import Access
from heliostat.serve.index import ANSWER_S, IndexRoutes
from heliostat.serve.limits import Limits
from heliostat.serve.metrics import merged_text
from heliostat.serve.plans import ReplicaPlan
from heliostat.serve.refusal import Refusal
from heliostat.serve.relay import Relayed, Reply, ask
from heliostat.serve.request_log import RequestLog
from heliostat.serve.schema import Served
from heliostat.serve.switch import Answered, Routes, routes_of


class BehindServe:
    """ASGI middleware between Serve's proxy and us.

    Serve calls the matched prefix a root path, also where it is the whole path; our routes hold whole paths. And it
    writes X-Request-ID into every answer itself, from the header that it gave us.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on one request."""

        async def without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"x-request-id"]
                message = {**message, "headers": headers}
            await send(message)

        await self._app({**scope, "root_path": ""}, receive, without_id)


@serve.ingress()
class Replica:
    """One model in one process. Serve sends it no request before its constructor returns."""

    def __init__(self, plan: ReplicaPlan) -> None:
        # Serve's way of starting a replica is its constructor: reading a checkpoint belongs nowhere else here.
        predictor = Predictor.load(Path(plan.folder), threads=plan.threads, precision=plan.precision)
        predictor.check_golden()
        self._served = plan.served
        self._beside: dict[str, Any] = {}
        self._now = Routes()
        limits, log = Limits.model_validate(plan.limits), RequestLog.model_validate(plan.requests or {})
        self._routes = ModelRoutes(predictor, plan.served, limits, plan.access, ledger.take, log)
        self._routes.switch.connect(self._other, ledger.Telling(self._title).note)
        self._routes.metrics_of_replicas = self._metrics_of_replicas
        self._app = self._routes.app()
        self._app.add_middleware(BehindServe)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    def reconfigure(self, routes: dict[str, Any]) -> None:
        """Called by Serve when the deployment's routes change: another share for the canary, a shadow, none of them."""
        self._now = routes_of(routes)
        self._routes.switch.turn(self._now)

    def check_health(self) -> None:
        """Called by Serve every few seconds; an error takes this replica out."""
        if not self._routes.is_ready:
            raise RuntimeError("the predicting thread has ended")

    async def answer(self, rows: Sequence[Row], seconds: float) -> Any:
        """The predictions for records that another version hands on, or a refusal as plain values that travel."""
        try:
            checked = self._routes.checked(rows)
            return [await self._routes.rows_answered(checked, time.monotonic() + seconds), *self._served]
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

    def describe(self) -> dict[str, Any]:
        """As `GET /v1/models/<name>`, for the index."""
        return self._routes.describe()

    def openapi(self) -> dict[str, Any]:
        """As `GET /openapi.json`, for the index."""
        return self._app.openapi()

    async def metrics(self) -> bytes:
        """As `GET /metrics`, for the index."""
        return merged_text(await self._metrics_of_replicas())

    def own_metrics(self) -> bytes:
        """What this replica has counted."""
        return self._routes.metrics_text()

    def recent(self) -> dict[str, Any]:
        """What this replica answered in the last minute, and the versions that stand beside it, for the gallery."""
        beside = {"canary": self._now.canary, "shadow": self._now.shadow}
        return {**self._routes.recent(), **{kind: route.version for kind, route in beside.items() if route}}

    async def _metrics_of_replicas(self) -> list[bytes]:
        """The metrics of every replica, a canary's and a shadow's too: a scrape reaches one, whichever it is."""
        beside = [route.app for route in (self._now.canary, self._now.shadow) if route]
        apps = [serve.get_replica_context().app_name, *beside]
        own, *others = await asyncio.gather(*(every_answer(self._handle(app), "own_metrics") for app in apps))
        return [text for texts in (own or [self.own_metrics()], *others) for text in texts]

    def _handle(self, app: str) -> Any:
        if app not in self._beside:
            self._beside[app] = DeploymentHandle("Replica", app)
        return self._beside[app]

    async def relay(self, request: Relayed) -> Reply:
        """A request that the index hands on, answered by this model's application."""
        return await ask(self._app, request)

    async def stream(self, body: bytes, request_id: str) -> AsyncGenerator[str | dict[str, Any], None]:
        """As `POST :stream`, for the index: its events, or a refusal as plain values that travel."""
        events = self._routes.events(body, time.monotonic(), request_id)
        try:
            async for each in events:
                yield each
        except Refusal as refusal:
            yield vars(refusal)
        finally:
            await events.aclose()


@serve.ingress()
class Index:
    """The application at `/` where several models share an address; it asks them by their Serve handles."""

    def __init__(self, models: Mapping[str, Any], limits: dict[str, Any], access: Access) -> None:
        self._models = dict(models)
        limits_ = Limits.model_validate(limits)
        self._routes = IndexRoutes(list(models), self._ask, limits_, access, self._stream, ledger.take, self._relay)

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = self._routes.app()
        app.add_middleware(BehindServe)
        return app

    async def _ask(self, name: str, what: str) -> Any:
        return await getattr(self._models[name], what).remote()

    async def _relay(self, name: str, request: Relayed) -> Reply:
        return Reply(*await self._models[name].relay.remote(request))

    async def _stream(self, name: str, body: bytes, request_id: str) -> Events:
        answer = self._models[name].options(stream=True).stream.remote(body, request_id)
        try:
            async for each in answer:
                if isinstance(each, dict):
                    raise Refusal(**each)
                yield each
        finally:
            answer.cancel()


async def every_answer(handle: Any, method: str) -> list[Any]:
    """What each replica behind a handle answers; one that does not is left out."""
    try:
        answers = await handle.broadcast(method).results_async(timeout_s=ANSWER_S, return_exceptions=True)
    except Exception:  # none of them is there yet, or any more
        return []
    return [answer for answer in answers if not isinstance(answer, BaseException)]
