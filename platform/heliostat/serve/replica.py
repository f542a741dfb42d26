"""What Serve runs: a model behind its application, several that share an encoder, and the index above several."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heliostat.component import Row
from heliostat.serve import ledger
from heliostat.serve.events import Events
from heliostat.serve.guard import Access
from heliostat.serve.index import IndexRoutes
from heliostat.serve.lane import BY_LANE
from heliostat.serve.limits import Limits
from heliostat.serve.model import ServedModel
from heliostat.serve.plans import ReplicaPlan
from heliostat.serve.proven import proven
from heliostat.serve.refusal import Refusal
from heliostat.serve.relay import Relayed, Reply


class BehindServe:
    """ASGI middleware between Serve's proxy and us.

    Serve calls the matched prefix a root path, also where it is the whole path; our routes hold whole paths. And it
    writes X-Request-ID into every answer itself, from the header that it gave us.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on one request."""
        if scope.get(BY_LANE):  # Serve has no part in it
            await self._app(scope, receive, send)
            return

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
        predictor = proven(Path(plan.folder), plan.threads, plan.precision)
        self._model = ServedModel(predictor, plan)
        self._model.app.add_middleware(BehindServe)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._model.app

    async def reconfigure(self, told: dict[str, Any]) -> None:
        """Called by Serve once this replica is ready, and when what it told changes: another share for the canary, a
        shadow, none of them; whether requests may come by the lane."""
        routes = {name: value for name, value in told.items() if name != "by_lane"}
        await self._model.turn(routes, by_lane=bool(told.get("by_lane")))

    def check_health(self) -> None:
        """Called by Serve every few seconds; an error takes this replica out."""
        if not self._model.routes.is_ready:
            raise RuntimeError("the predicting thread has ended")

    async def answer(self, rows: Sequence[Row], seconds: float) -> Any:
        """As ServedModel."""
        return await self._model.answer(rows, seconds)

    def describe(self, _name: str = "") -> dict[str, Any]:
        """As `GET /v1/models/<name>`, for the index."""
        return self._model.routes.describe()

    def openapi(self) -> dict[str, Any]:
        """As `GET /openapi.json`, for the index."""
        return self._model.app.openapi()

    async def metrics(self) -> bytes:
        """As `GET /metrics`, for the index."""
        return await self._model.metrics()

    def own_metrics(self, _name: str) -> bytes:
        """What this replica has counted."""
        return self._model.routes.metrics_text()

    def recent(self, _name: str) -> dict[str, Any]:
        """As ServedModel."""
        return self._model.recent()

    async def relay(self, request: Relayed) -> Reply:
        """As ServedModel."""
        return await self._model.relay(request)

    async def stream(self, body: bytes, request_id: str) -> AsyncGenerator[str | dict[str, Any], None]:
        """As ServedModel."""
        async for each in self._model.stream(body, request_id):
            yield each


class Handles:
    """Models in applications of their own, asked by their Serve handles."""

    def __init__(self, models: Mapping[str, Any]) -> None:
        self._models = dict(models)

    async def ask(self, name: str, what: str) -> Any:
        """As heliostat.serve.index.Ask."""
        return await getattr(self._models[name], what).remote()

    async def relay(self, name: str, request: Relayed) -> Reply:
        """As heliostat.serve.relay.Relay."""
        return Reply(*await self._models[name].relay.remote(request))

    async def stream(self, name: str, body: bytes, request_id: str) -> Events:
        """As heliostat.serve.index.Stream."""
        answer = self._models[name].options(stream=True).stream.remote(body, request_id)
        try:
            async for each in answer:
                if isinstance(each, dict):
                    raise Refusal(**each)
                yield each
        finally:
            answer.cancel()


@serve.ingress()
class Index:
    """The application at `/` where several models share an address; it asks them by their Serve handles."""

    def __init__(self, models: Mapping[str, Any], limits: dict[str, Any], access: Access) -> None:
        by = Handles(models)
        limits_ = Limits.model_validate(limits)
        self._routes = IndexRoutes(list(models), by.ask, limits_, access, by.stream, ledger.take, by.relay)

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = self._routes.app()
        app.add_middleware(BehindServe)
        return app
