"""What stands above several models: which there are, their descriptions, readiness and metrics. It knows no Ray.

Predictions never pass through it. Serve matches an application's route prefix up to a '/' or to the end, so each
model's application takes the prefix `/v1/models/<name>:predict`, which matches its one route and no other. Everything
else falls to this application at `/`, which asks the models; what `:stream` writes passes through it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from heliostat.serve.description import docs_response
from heliostat.serve.events import Events, EventStream
from heliostat.serve.guard import Access, Guard
from heliostat.serve.limits import Limits
from heliostat.serve.metrics import METRICS_TYPE, merged_text
from heliostat.serve.rates import Take
from heliostat.serve.refusal import Refusal, router_refusal
from heliostat.serve.requests import body_of, unless_gone

ANSWER_S = 5.0
"""Seconds that a model may take to describe itself."""

Ask = Callable[[str, str], Awaitable[Any]]
"""(model, what) -> its answer, where `what` is `describe`, `openapi` or `metrics`."""

Stream = Callable[[str, bytes, str], Events]
"""(model, body, request id) -> the events of its `:stream`; raises Refusal before the first one."""


class IndexRoutes:
    """The routes at `/` where several models share an address."""

    def __init__(
        self,
        names: Sequence[str],
        ask: Ask,
        limits: Limits,
        access: Access,
        stream: Stream | None = None,
        take: Take | None = None,
    ) -> None:
        self._names = tuple(names)
        self._stream_model = stream
        self._ask_model = ask
        self._limits = limits
        self._access = access
        self._take = take

    def app(self) -> FastAPI:
        """The application."""
        app = FastAPI(
            openapi_url=None,
            redirect_slashes=False,
            docs_url=None,
            redoc_url=None,
            exception_handlers={HTTPException: self._refused},
        )
        for name in self._names:
            app.get(f"/v1/models/{name}", response_model=None)(self._description_of(name))
            if self._stream_model:
                app.post(f"/v1/models/{name}:stream", response_model=None)(self._stream_of(name, self._stream_model))
        app.get("/v1/models", response_model=None)(self._list)
        app.get("/healthz", response_model=None)(self._healthz)
        app.get("/readyz", response_model=None)(self._readyz)
        app.get("/metrics", response_model=None)(self._metrics)
        app.get("/openapi.json", response_model=None)(self._openapi)
        app.get("/docs", response_model=None)(self._docs)
        app.add_middleware(
            Guard,
            limits=self._limits,
            access=self._access,
            answered=lambda scope, status, seconds: None,
            take=self._take,
        )
        return app

    async def _ask(self, name: str, what: str) -> Any:
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._ask_model(name, what)
        except Exception:  # whatever keeps a model from answering, it is not ready
            message = f"The model {name} does not answer now."
            raise Refusal(503, "not_ready", message, headers={"Retry-After": "1"}) from None

    async def _ask_all(self, what: str) -> list[Any]:
        return list(await asyncio.gather(*(self._ask(name, what) for name in self._names)))

    def _description_of(self, name: str) -> Callable[[], Awaitable[JSONResponse]]:
        async def description() -> JSONResponse:
            return JSONResponse(await self._ask(name, "describe"))

        return description

    def _stream_of(self, name: str, stream: Stream) -> Callable[[Request], Awaitable[EventStream]]:
        async def streamed(request: Request) -> EventStream:
            events = stream(name, await body_of(request, self._limits), request.scope["heliostat.id"])
            return EventStream(await unless_gone(request, anext(events)), events)

        return streamed

    async def _list(self) -> JSONResponse:
        return JSONResponse({"models": list(self._names)})

    async def _healthz(self) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def _readyz(self) -> JSONResponse:
        if not all(model["ready"] for model in await self._ask_all("describe")):
            raise Refusal(503, "not_ready", "A model takes no requests now.", headers={"Retry-After": "1"})
        return JSONResponse({"status": "ready"})

    async def _metrics(self) -> Response:
        return Response(merged_text(await self._ask_all("metrics")), media_type=METRICS_TYPE)

    async def _openapi(self) -> JSONResponse:
        return JSONResponse(merged(await self._ask_all("openapi")))

    async def _docs(self) -> HTMLResponse:
        return docs_response(await self._ask_all("describe"))

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        raise router_refusal(error, request.scope["path"], self._names)


def merged(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """One OpenAPI description of several models. Schemas of one name must be equal, or the later one gets a number."""
    whole: dict[str, Any] = {**schemas[0], "info": {"title": "Models", "version": "1"}, "paths": {}, "components": {}}
    known: dict[str, Any] = {}
    for schema in schemas:
        names = {name: _free(name, value, known) for name, value in schema["components"]["schemas"].items()}
        renamed = _renamed(schema, names)
        known |= {names[name]: value for name, value in renamed["components"]["schemas"].items()}
        whole["paths"] |= renamed["paths"]
        whole["components"] |= renamed["components"]
    whole["components"]["schemas"] = known
    return whole


def _free(name: str, value: Any, known: Mapping[str, Any]) -> str:
    number, free = 1, name
    while free in known and known[free] != value:
        number += 1
        free = f"{name}{number}"
    return free


def _renamed(node: Any, names: Mapping[str, str]) -> Any:
    if isinstance(node, list):
        return [_renamed(value, names) for value in node]
    if not isinstance(node, dict):
        return node
    base = "#/components/schemas/"
    return {
        key: base + names[value.removeprefix(base)]
        if key == "$ref" and isinstance(value, str)
        else _renamed(value, names)
        for key, value in node.items()
    }
