"""One FastAPI application a model: its routes, its queue and the guard around them. It knows no Ray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from heliostat.component import Row
from heliostat.plugin import TaskHead
from heliostat.serve.description import describe, docs_response, openapi
from heliostat.serve.guard import Access, Guard
from heliostat.serve.limits import Limits
from heliostat.serve.metrics import METRICS_TYPE, ServeMetrics
from heliostat.serve.queue import BatchingQueue
from heliostat.serve.refusal import ErrorBody, Refusal, router_refusal
from heliostat.serve.schema import RequestCheck, Served, exchange, parse_json


class Answers(Protocol):
    """What a served model can do; `heliostat.predict.Predictor` does it from a checkpoint."""

    @property
    def head(self) -> TaskHead:
        """The head that declares the records."""
        ...

    def predict(self, examples: Sequence[Row], *, max_tokens: int = 8192) -> list[Row]:
        """One prediction an example, in order. Called from one thread at a time."""
        ...


def build_app(
    model: Answers,
    served: Served,
    limits: Limits | None = None,
    access: Access | None = None,
) -> FastAPI:
    """The whole HTTP side of one model: `POST /v1/models/<name>:predict`, its description, health, docs and metrics.

    Limits, the token, allowed hosts and the shape of errors are inside. The queue's thread starts and ends with the
    application's lifespan.
    """
    return ModelRoutes(model, served, limits or Limits(), access or Access()).app()


class ModelRoutes:
    """The routes of one model over one batching queue."""

    def __init__(self, model: Answers, served: Served, limits: Limits, access: Access) -> None:
        self._head = model.head
        self._served = served
        self._limits = limits
        self._access = access
        self._exchange = exchange(model.head, served.name, limits)
        self._check = RequestCheck(model.head.takes, limits)
        self._queue = BatchingQueue(model.predict, limits, lambda rows, tokens: self._metrics.predicted(rows, tokens))
        self._metrics = ServeMetrics(served.name, served.version, lambda: len(self._queue))
        self._path = f"/v1/models/{served.name}"
        self._names = {
            f"{self._path}:predict": "predict", self._path: "model", "/v1/models": "models", "/healthz": "healthz",
            "/readyz": "readyz", "/metrics": "metrics", "/docs": "docs", "/openapi.json": "openapi",
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
        app.add_middleware(Guard, limits=self._limits, access=self._access, answered=self._answered)
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
        codes = (400, 401, 408, 413, 415, 422, 500, 503, 504)
        responses: dict[int | str, dict[str, Any]] = {200: answer, **{code: {"model": ErrorBody} for code in codes}}
        app.post(f"{self._path}:predict", response_model=None, responses=responses, name="predict")(self._predict)
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
        _check_content(request)
        rows = self._check.rows(parse_json(await self._body(request)))
        predictions = await self._unless_gone(request, rows, arrived + self._limits.timeout_s)
        latency_ms = round((time.monotonic() - arrived) * 1000, 3)
        return JSONResponse({"predictions": predictions, "model": self._served._asdict(), "latency_ms": latency_ms})

    async def _body(self, request: Request) -> bytes:
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                return await request.body()
        except TimeoutError:
            raise Refusal(
                408, "body_timeout", "The body took too long to arrive.", headers={"Connection": "close"}
            ) from None
        except ClientDisconnect:
            raise _gone() from None

    async def _unless_gone(self, request: Request, rows: list[Row], deadline: float) -> list[Row]:
        """Wait for the predictions, and let go of them when the client goes away."""
        answer = asyncio.create_task(self._queue.submit(rows, deadline=deadline))
        gone = asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise _gone()
            return answer.result()
        finally:
            answer.cancel()
            gone.cancel()

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
            needs_token = self._access.token_hash is not None
            app.openapi_schema = openapi(app, self._head, self._exchange, f"{self._path}:predict", needs_token)
        return app.openapi_schema

    async def _refused(self, request: Request, error: Exception) -> Response:
        """What the router refuses (no such route, no such method), in our shape."""
        assert isinstance(error, HTTPException)
        raise router_refusal(error, request.scope["path"], [self._served.name])

    def _answered(self, scope: Scope, status: int, seconds: float) -> None:
        self._metrics.answered(self._names.get(scope["path"], "other"), status, seconds)


def _check_content(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # It also keeps a foreign web page out: a browser sends this type only where CORS allows it.
        raise Refusal(415, "not_json", "Send the header 'Content-Type: application/json'.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "compressed", "A body comes as it is, without Content-Encoding.")


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _gone() -> Refusal:
    # Nobody reads this answer; the status (of nginx) is for the metrics.
    return Refusal(499, "client_closed_request", "The client went away.")
