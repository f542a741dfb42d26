"""One FastAPI application a model: its routes, its queue and the guard around them. It knows no Ray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, runtime_checkable

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Scope

from heliostat.component import Row
from heliostat.plugin import TaskHead
from heliostat.serve.description import STREAMED, describe, docs_response, openapi
from heliostat.serve.events import EVENTS_TYPE, Events, EventStream, event
from heliostat.serve.guard import Access, Guard, unexpected
from heliostat.serve.limits import Limits
from heliostat.serve.metrics import METRICS_TYPE, ServeMetrics
from heliostat.serve.queue import BatchingQueue
from heliostat.serve.rates import Take
from heliostat.serve.refusal import ErrorBody, Refusal, router_refusal
from heliostat.serve.requests import body_of, unless_gone
from heliostat.serve.schema import RequestCheck, Served, exchange, parse_json
from heliostat.serve.switch import Answered, Sender, Switch


class Answers(Protocol):
    """What a served model can do; `heliostat.predict.Predictor` does it from a checkpoint."""

    @property
    def head(self) -> TaskHead:
        """The head that declares the records."""
        ...

    def predict(self, examples: Sequence[Row], *, max_tokens: int = 8192) -> list[Row]:
        """One prediction an example, in order. Called from one thread at a time."""
        ...


@runtime_checkable
class Writes(Protocol):
    """What a served model whose head `streams` can do besides."""

    def stream(self, example: Row) -> Iterator[str | Row]:
        """Pieces of the text that answers, and last the row. Called from the thread that predicts, between batches."""
        ...


def build_app(
    model: Answers,
    served: Served,
    limits: Limits | None = None,
    access: Access | None = None,
) -> FastAPI:
    """The whole HTTP side of one model: `POST /v1/models/<name>:predict`, its description, health, docs and metrics.

    A model that writes texts answers `:stream`, too.
    Limits, the token, allowed hosts and the shape of errors are inside. The queue's thread starts and ends with the
    application's lifespan.
    """
    return ModelRoutes(model, served, limits or Limits(), access or Access()).app()


class ModelRoutes:
    """The routes of one model over one batching queue."""

    def __init__(
        self, model: Answers, served: Served, limits: Limits, access: Access, take: Take | None = None
    ) -> None:
        self._head = model.head
        self._take = take
        self._served = served
        self._limits = limits
        self._access = access
        self._exchange = exchange(model.head, served.name, limits)
        self._check = RequestCheck(model.head.takes, limits)
        self._check_one = RequestCheck(model.head.takes, limits.model_copy(update={"max_instances": 1}))
        write = model.stream if model.head.streams and isinstance(model, Writes) else None
        self._streams = write is not None
        self._queue = BatchingQueue(model.predict, limits, self._predicted, write)
        self.switch = Switch(served, self.rows_answered)
        """Which version answers a request, where there are two."""
        self._metrics = ServeMetrics(served.name, served.version, lambda: len(self._queue))
        self._path = f"/v1/models/{served.name}"
        self._names = {
            f"{self._path}:predict": "predict", f"{self._path}:stream": "stream", self._path: "model",
            "/v1/models": "models", "/healthz": "healthz", "/readyz": "readyz", "/metrics": "metrics", "/docs": "docs",
            "/openapi.json": "openapi",
        }  # fmt: skip

    def app(self) -> FastAPI:
        """The application."""
        app = FastAPI(
            title=f"{self._served.name}, version {self._served.version}",
            description=self._head.notice,
            version=str(self._served.version),
            lifespan=self._lifespan,
            redirect_slashes=False,
            docs_url=None,
            redoc_url=None,
            exception_handlers={HTTPException: self._refused},
        )
        self._add_routes(app)
        app.openapi = lambda: self._openapi(app)  # type: ignore[method-assign]
        app.add_middleware(Guard, limits=self._limits, access=self._access, answered=self._answered, take=self._take)
        return app

    @property
    def is_ready(self) -> bool:
        """Whether the model takes requests."""
        return self._queue.is_alive

    def describe(self) -> dict[str, Any]:
        """Name, version, readiness, records, samples, notice and limits."""
        return describe(self._head, self._served, self._limits, is_ready=self.is_ready)

    def metrics_text(self) -> bytes:
        """Counters in the text format of Prometheus."""
        return self._metrics.text()

    def _add_routes(self, app: FastAPI) -> None:
        answer = {"model": self._exchange.response, "description": "The predictions, in the order of the records."}
        codes = (400, 401, 408, 413, 415, 422, 429, 500, 503, 504)
        responses: dict[int | str, dict[str, Any]] = {200: answer, **{code: {"model": ErrorBody} for code in codes}}
        app.post(f"{self._path}:predict", response_model=None, responses=responses, name="predict")(self._predict)
        written = {"description": STREAMED, "content": {EVENTS_TYPE: {"schema": {"type": "string"}}}}
        app.post(
            f"{self._path}:stream",
            response_model=None,
            response_class=StreamingResponse,
            responses={**responses, 200: written},
            name="stream",
            include_in_schema=self._streams,
        )(self._stream)
        app.get(self._path, response_model=None, name="model")(self._model)
        app.get("/v1/models", response_model=None, name="models")(self._models)
        app.get("/healthz", response_model=None, name="healthz")(self._healthz)
        app.get("/readyz", response_model=None, name="readyz")(self._readyz)
        app.get("/metrics", response_model=None, name="metrics")(self._metrics_text)
        app.get("/docs", response_model=None, name="docs", include_in_schema=False)(self._docs)

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self._queue.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self._queue.close)

    async def _predict(self, request: Request) -> Response:
        """Predict a list of records."""
        arrived: float = request.scope["heliostat.arrived"]
        rows = self._check.rows(parse_json(await body_of(request, self._limits)))
        rows, by = await unless_gone(request, self._answer(request, rows))
        return JSONResponse(
            {"predictions": rows, **_by_whom(by, arrived)}, headers={"X-Model": f"{by.name}:{by.version}"}
        )

    async def _answer(self, request: Request, rows: Sequence[Row]) -> Answered:
        """The predictions for checked records, and who made them: this version, or another one while a canary runs.

        Whatever the protocol of a route, predictions come from here. Raises Refusal.
        """
        scope = request.scope
        sender = Sender(scope["heliostat.key"], request.headers.get("x-client-id", ""))
        return await self.switch.answer(rows, sender, deadline=scope["heliostat.arrived"] + self._limits.timeout_s)

    async def rows_answered(self, rows: Sequence[Row], deadline: float) -> list[Row]:
        """The predictions of this version for checked records. Raises Refusal."""
        return await self._queue.submit(rows, deadline=deadline)

    def checked(self, rows: Sequence[Row]) -> list[Row]:
        """Records that another version has checked, checked by the rules of this one. Raises Refusal."""
        return self._check.rows({"instances": list(rows)})

    async def _stream(self, request: Request) -> Response:
        """Answer one record piece by piece."""
        body = await body_of(request, self._limits)
        events = self.events(body, request.scope["heliostat.arrived"], request.scope["heliostat.id"])
        return EventStream(await unless_gone(request, anext(events)), events)

    async def events(self, body: bytes, arrived: float, request_id: str) -> Events:
        """The events that answer the body of a request for a stream.

        Raises Refusal before the first one; whatever goes wrong later is an event itself. Closing it ends the writing.
        """
        if not self._streams:
            message = "This model does not write texts: it gives its answers whole. Ask it at ':predict'."
            raise Refusal(404, "not_streaming", message)
        row = self._check_one.rows(parse_json(body))[0]
        bits, has_begun = self._queue.stream(row, deadline=arrived + self._limits.timeout_s), False
        try:
            async for bit in bits:
                if isinstance(bit, str):
                    yield event("piece", {"text": bit})
                else:
                    yield event("answer", {"prediction": bit, **_by_whom(self._served, arrived)})
                has_begun = True
        except Exception as error:
            if not has_begun:
                raise
            refusal = error if isinstance(error, Refusal) else unexpected(error, request_id)
            yield event("error", refusal.body(request_id))
        finally:
            await bits.aclose()

    async def _model(self) -> JSONResponse:
        """The model's version, records, samples and limits."""
        return JSONResponse(self.describe())

    async def _models(self) -> JSONResponse:
        """The names of the models here."""
        return JSONResponse({"models": [self._served.name]})

    async def _healthz(self) -> JSONResponse:
        """Whether the process answers."""
        return JSONResponse({"status": "ok"})

    async def _readyz(self) -> JSONResponse:
        """Whether the model takes requests."""
        if not self.is_ready:
            raise Refusal(503, "not_ready", "The model takes no requests now.", headers={"Retry-After": "1"})
        return JSONResponse({"status": "ready"})

    async def _metrics_text(self) -> Response:
        """Counters in the text format of Prometheus."""
        return Response(self.metrics_text(), media_type=METRICS_TYPE)

    async def _docs(self) -> HTMLResponse:
        """How to ask this model, for people."""
        return docs_response([self.describe()])

    def _openapi(self, app: FastAPI) -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi(app, self._head, self._exchange, self._path, self._access.needs_key)
        return app.openapi_schema

    async def _refused(self, request: Request, error: Exception) -> Response:
        """What the router refuses (no such route, no such method), in our shape."""
        assert isinstance(error, HTTPException)
        raise router_refusal(error, request.scope["path"], [self._served.name])

    def _predicted(self, rows: int, tokens: int) -> None:
        self._metrics.predicted(rows, tokens)

    def _answered(self, scope: Scope, status: int, seconds: float) -> None:
        self._metrics.answered(self._names.get(scope["path"], "other"), status, seconds)


def _by_whom(served: Served, arrived: float) -> dict[str, Any]:
    return {"model": served._asdict(), "latency_ms": round((time.monotonic() - arrived) * 1000, 3)}
