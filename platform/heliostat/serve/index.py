"""What stands above several models: which there are, their descriptions, readiness and metrics. It knows no Ray.

Predictions never pass through it. Serve matches an application's route prefix up to a '/' or to the end, so each
model's application takes the prefix `/v1/models/<name>:predict`, which matches its one route and no other. Everything
else falls to this application at `/`, which asks the models; what `:stream` writes passes through it, and so do
requests in the form of other protocols.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import Scope

from heliostat.serve.description import docs_response
from heliostat.serve.embeddings import PATH as EMBEDDINGS
from heliostat.serve.embeddings import asked_model, listed
from heliostat.serve.events import Events, EventStream
from heliostat.serve.guard import Access, Guard
from heliostat.serve.inference import LIVE, READY, server_metadata
from heliostat.serve.limits import Limits
from heliostat.serve.metrics import METRICS_TYPE, ServeMetrics, merged_text
from heliostat.serve.plans import INDEX
from heliostat.serve.rates import Take
from heliostat.serve.refusal import Refusal, router_refusal
from heliostat.serve.relay import Relay, relayed
from heliostat.serve.requests import body_of, unless_gone
from heliostat.serve.schema import parse_json

log = logging.getLogger(__name__)

HANDED_ON = "heliostat.handed_on"
"""In the scope of a request that a model has answered."""
ANSWER_S = 5.0
"""Seconds that a model may take to describe itself."""
_PAUSE_S = 0.05
"""Before the second try: by then Serve knows which replica is dead."""

T = TypeVar("T")

Ask = Callable[[str, str], Awaitable[Any]]
"""(model, what) -> its answer, where `what` is `describe`, `openapi` or `metrics` (of all its replicas)."""

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
        relay: Relay | None = None,
    ) -> None:
        self._names = tuple(names)
        self._stream_model = stream
        self._ask_model = ask
        self._limits = limits
        self._access = access
        self._take = take
        self._relay = relay
        self._counts = ServeMetrics(INDEX, 0, None)

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
        if self._relay:
            self._add_relayed(app, self._relay)
        app.get("/healthz", response_model=None)(self._healthz)
        app.get("/readyz", response_model=None)(self._readyz)
        app.get("/metrics", response_model=None)(self._metrics)
        app.get("/openapi.json", response_model=None)(self._openapi)
        app.get("/docs", response_model=None)(self._docs)
        app.add_middleware(
            Guard,
            limits=self._limits,
            access=self._access,
            answered=self._answered,
            take=self._take,
        )
        return app

    def _answered(self, scope: Scope, status: int, seconds: float) -> None:
        """Count what ends here; what was handed on is counted where it was answered."""
        if not scope.get(HANDED_ON):
            self._counts.answered("index", status, seconds, scope.get("heliostat.error", ""))

    async def _ask(self, name: str, what: str) -> Any:
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._ask_model(name, what)
        except Exception:  # whatever keeps a model from answering, it is not ready
            raise _silent(name) from None

    async def _ask_all(self, what: str) -> list[Any]:
        return list(await asyncio.gather(*(self._ask(name, what) for name in self._names)))

    def _description_of(self, name: str) -> Callable[[], Awaitable[JSONResponse]]:
        async def description() -> JSONResponse:
            return JSONResponse(await self._ask(name, "describe"))

        return description

    def _stream_of(self, name: str, stream: Stream) -> Callable[[Request], Awaitable[EventStream]]:
        async def streamed(request: Request) -> EventStream:
            body = await body_of(request, self._limits)

            async def begun() -> EventStream:
                events = stream(name, body, request.scope["heliostat.id"])
                return EventStream(await anext(events), events)

            return await unless_gone(request, _tried(name, begun))

        return streamed

    def _add_relayed(self, app: FastAPI, relay: Relay) -> None:
        """The other protocols: their requests go to the application of the model that they name."""

        async def embeddings(request: Request) -> Response:
            body = await body_of(request, self._limits)
            name = asked_model(parse_json(body), self._names)
            return await self._handed_on(relay, name, request, body)

        app.post(EMBEDDINGS, response_model=None)(embeddings)
        for name in self._names:
            for path in (f"/v2/models/{name}", f"/v2/models/{name}/{{rest:path}}"):
                app.get(path, response_model=None)(self._relayed_to(relay, name))
            for path in (f"/v2/models/{name}/infer", f"/v2/models/{name}/versions/{{version}}/infer"):
                app.post(path, response_model=None)(self._relayed_to(relay, name))
        app.get("/v2", response_model=None)(self._server)
        app.get(LIVE, response_model=None)(self._healthz)
        app.get(READY, response_model=None)(self._readyz)

    def _relayed_to(self, relay: Relay, name: str) -> Callable[[Request], Awaitable[Response]]:
        async def relayed_to(request: Request) -> Response:
            body = await body_of(request, self._limits, may_be_binary=True) if request.method == "POST" else b""
            return await self._handed_on(relay, name, request, body)

        return relayed_to

    async def _handed_on(self, relay: Relay, name: str, request: Request, body: bytes) -> Response:
        reply = await unless_gone(request, _tried(name, lambda: relay(name, relayed(request, body))))
        request.scope[HANDED_ON] = True
        return reply.response()

    async def _server(self) -> JSONResponse:
        return server_metadata()

    async def _list(self) -> JSONResponse:
        created = await asyncio.gather(*map(self._created, self._names))
        return JSONResponse(listed(dict(zip(self._names, created, strict=True))))

    async def _created(self, name: str) -> int:
        try:
            return int((await self._ask(name, "describe")).get("created", 0))
        except Refusal:  # a model that does not answer now is on the list all the same
            return 0

    async def _healthz(self) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def _readyz(self) -> JSONResponse:
        if not all(model["ready"] for model in await self._ask_all("describe")):
            raise Refusal(503, "not_ready", "A model takes no requests now.", headers={"Retry-After": "1"})
        return JSONResponse({"status": "ready"})

    async def _metrics(self) -> Response:
        texts = await self._ask_all("metrics")
        return Response(merged_text([*texts, self._counts.text()]), media_type=METRICS_TYPE)

    async def _openapi(self) -> JSONResponse:
        return JSONResponse(merged(await self._ask_all("openapi")))

    async def _docs(self) -> HTMLResponse:
        return docs_response(await self._ask_all("describe"))

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        raise router_refusal(error, request.scope["path"], self._names)


async def _tried(name: str, ask: Callable[[], Awaitable[T]]) -> T:
    """What a model answers, asked once more where its replica died: nobody has seen a byte of it. Raises Refusal."""
    try:
        return await ask()
    except Refusal:
        raise
    except Exception as error:  # whatever keeps a replica from answering, another one may
        log.warning("a replica of %s did not answer (%s); the request goes to another one", name, type(error).__name__)
    await asyncio.sleep(_PAUSE_S)
    try:
        return await ask()
    except Refusal:
        raise
    except Exception:
        raise _silent(name) from None


def _silent(name: str) -> Refusal:
    message = f"The model {name} does not answer now. Try again in 1 s."
    return Refusal(503, "not_ready", message, headers={"Retry-After": "1"})


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
