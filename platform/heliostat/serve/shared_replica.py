"""What Serve runs where models share an encoder: all of them in one process, one queue, one pass; and their index.

A deployment has one such application, at `/`. A request for one of its models goes straight to that model's routes. All
else goes to the index, which knows the models that stand in applications of their own, too.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from heliostat.serve import ledger
from heliostat.serve.events import Events
from heliostat.serve.index import IndexRoutes
from heliostat.serve.limits import Limits
from heliostat.serve.model import ServedModel
from heliostat.serve.plans import ReplicaPlan
from heliostat.serve.proven import proven_together
from heliostat.serve.refusal import Refusal
from heliostat.serve.relay import Relayed, Reply
from heliostat.serve.replica import BehindServe, Handles
from heliostat.serve.shared_queue import SharedQueue


@serve.ingress()
class SharedReplica:
    """Several models in one process, which share an encoder."""

    def __init__(self, plans: Sequence[ReplicaPlan]) -> None:
        folders, first = [Path(plan.folder) for plan in plans], plans[0]
        together = proven_together(folders, first.threads, first.precision)
        self._access, limits = first.access, Limits.model_validate(first.limits)
        queue = SharedQueue(together.predict, limits)
        self._models = {
            plan.served.name: ServedModel(predictor, plan, partial(queue.line, place))
            for place, (predictor, plan) in enumerate(zip(together.predictors, plans, strict=True))
        }
        self._paths: dict[str, ASGIApp] = {
            f"/v1/models/{name}:predict": model.app for name, model in self._models.items()
        }
        self._lifespan_app = Starlette(lifespan=self._lifespan)
        self._others = Handles({})
        self._index = self._index_of(list(self._models), limits)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return BehindServe(self._app)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan_app(scope, receive, send)
        else:
            await self._paths.get(scope.get("path", ""), self._index)(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for model in self._models.values():
                await stack.enter_async_context(model.lifespan(model.app))
            yield

    async def reconfigure(self, told: dict[str, Any]) -> None:
        """Called by Serve once this replica is ready, and when other models come and go or requests go elsewhere."""
        for name, model in self._models.items():
            await model.turn(told["routes"].get(name) or {}, by_lane=bool(told["by_lane"]))
        self._others = Handles({name: DeploymentHandle("Replica", name) for name in told["others"]})
        self._index = self._index_of(told["names"], Limits.model_validate(told["limits"]))

    def _index_of(self, names: Sequence[str], limits: Limits) -> ASGIApp:
        return IndexRoutes(names, self._ask, limits, self._access, self._stream, ledger.take, self._relay).app()

    def check_health(self) -> None:
        """Called by Serve every few seconds; an error takes this replica out."""
        if not all(model.routes.is_ready for model in self._models.values()):
            raise RuntimeError("the predicting thread has ended")

    def describe(self, name: str) -> dict[str, Any]:
        """As `GET /v1/models/<name>`."""
        return self._models[name].routes.describe()

    def own_metrics(self, name: str) -> bytes:
        """What this replica has counted of a model."""
        return self._models[name].routes.metrics_text()

    def recent(self, name: str) -> dict[str, Any]:
        """What this replica answered of a model in the last minute, for the gallery."""
        return self._models[name].recent()

    async def _ask(self, name: str, what: str) -> Any:
        if name not in self._models:
            return await self._others.ask(name, what)
        model = self._models[name]
        ways = {"describe": model.routes.describe, "openapi": model.app.openapi, "metrics": model.metrics}
        answer = ways[what]()
        return await answer if inspect.isawaitable(answer) else answer

    async def _relay(self, name: str, request: Relayed) -> Reply:
        model = self._models.get(name)
        return await (model.relay(request) if model else self._others.relay(name, request))

    async def _stream(self, name: str, body: bytes, request_id: str) -> Events:
        if name not in self._models:
            async for event in self._others.stream(name, body, request_id):
                yield event
            return
        async for each in self._models[name].stream(body, request_id):
            if isinstance(each, dict):
                raise Refusal(**each)
            yield each
