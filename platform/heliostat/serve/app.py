"""One FastAPI application a model: its routes, its queue and the guard around them. It knows no Ray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, runtime_checkable

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from heliostat.component import Row
from heliostat.plugin import TaskHead
from heliostat.serve.about import AboutRoutes
from heliostat.serve.description import STREAMED, describe, openapi
from heliostat.serve.embeddings import PATH as EMBEDDINGS
from heliostat.serve.embeddings import EmbeddingRequest, EmbeddingRoutes, Embeds, ToEmbed, as_model, can_embed
from heliostat.serve.events import EVENTS_TYPE, Events, EventStream, event
from heliostat.serve.guard import Access, Guard, unexpected
from heliostat.serve.inference import InferenceRoutes
from heliostat.serve.limits import Limits
from heliostat.serve.metrics import merged_text
from heliostat.serve.queue import BatchingQueue, Counted, Predict
from heliostat.serve.rates import Take
from heliostat.serve.refusal import ErrorBody, Refusal, router_refusal
from heliostat.serve.request_log import RequestLog
from heliostat.serve.requests import body_of, unless_gone
from heliostat.serve.schema import RequestCheck, Served, exchange, parse_json
from heliostat.serve.shared_queue import Line
from heliostat.serve.streams import Write
from heliostat.serve.switch import Answered, Sender, Switch
from heliostat.serve.watch import Watch


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


QueueOf = Callable[[Predict, Limits, Counted | None, Write | None], BatchingQueue | Line]
"""What requests wait in: a queue of the model's own, or a line of one that several share."""


def build_app(
    model: Answers,
    served: Served,
    limits: Limits | None = None,
    access: Access | None = None,
    log: RequestLog | None = None,
) -> FastAPI:
    """The whole HTTP side of one model: `POST /v1/models/<name>:predict`, its description, health, docs and metrics.

    The Open Inference Protocol v2 stands beside it (`/v2`), and OpenAI's embeddings where the model gives vectors of
    texts. A model that writes texts answers `:stream`, too. Nothing is written to disk unless `log` asks for it.
    Limits, the token, allowed hosts and the shape of errors are inside. The queue's thread starts and ends with the
    application's lifespan.
    """
    return ModelRoutes(model, served, limits or Limits(), access or Access(), log=log).app()


class ModelRoutes:
    """The routes of one model over one batching queue."""

    def __init__(
        self,
        model: Answers,
        served: Served,
        limits: Limits,
        access: Access,
        take: Take | None = None,
        log: RequestLog | None = None,
        queue: QueueOf = BatchingQueue,
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
        self._queue = queue(self._computed, limits, self._counted, write)
        self.switch = Switch(served, self.rows_answered)
        """Which version answers a request, where there are two."""
        self._path = f"/v1/models/{served.name}"
        self._model = model
        self._watch = Watch(
            model.head, served, limits, log or RequestLog(lines=False),
            queue_length=lambda: len(self._queue), is_ready=lambda: self.is_ready,
        )  # fmt: skip
        self.metrics_of_replicas: Callable[[], Awaitable[Sequence[bytes]]] | None = None
        """Where several replicas share an address: how to ask each for its `metrics_text`, this one among them."""
        self._created = int(getattr(model, "saved_at", 0))
        self._about = AboutRoutes(served.name, self._created, self.describe, lambda: self.is_ready, self._all_metrics)
        self._inference = InferenceRoutes(model.head, served, limits, self._predicted, lambda: self.is_ready)
        field = can_embed(model)
        self._embeddings = EmbeddingRoutes(model.head, served, limits, field, self._embedded) if field else None
        own = {f"{self._path}:predict": "predict", f"{self._path}:stream": "stream", EMBEDDINGS: "embeddings"}
        self._watch.name_routes({**own, **self._about.names(), **self._inference.names(), "/openapi.json": "openapi"})

    def app(self) -> FastAPI:
        """The application."""
        app = FastAPI(
            title=f"{self._served.name}, version {self._served.version}",
            description=self._head.notice,
            version=str(self._served.version),
            lifespan=self.lifespan,
            redirect_slashes=False,
            docs_url=None,
            redoc_url=None,
            exception_handlers={HTTPException: self._refused},
        )
        self._add_routes(app)
        app.openapi = lambda: self._openapi(app)  # type: ignore[method-assign]
        app.add_middleware(
            Guard, limits=self._limits, access=self._access, answered=self._watch.answered, take=self._take
        )
        return app

    @property
    def is_ready(self) -> bool:
        """Whether the model takes requests."""
        return self._queue.is_alive

    def describe(self) -> dict[str, Any]:
        """Name, version, readiness, records, samples, notice and limits."""
        said = describe(self._head, self._served, self._limits, is_ready=self.is_ready)
        return {**said, **as_model(self._served.name, self._created), "embeds": self._embeddings is not None}

    def metrics_text(self) -> bytes:
        """Counters of this replica in the text format of Prometheus."""
        return self._watch.metrics.text()

    def recent(self) -> dict[str, Any]:
        """The version, how many requests wait, and what was answered in the last minute (`Recent.told`)."""
        about = {"version": self._served.version, "ready": self.is_ready, "waiting": len(self._queue)}
        return {**about, **self._watch.recent.told()}

    async def _all_metrics(self) -> bytes:
        if self.metrics_of_replicas is None:
            return self.metrics_text()
        return merged_text(await self.metrics_of_replicas())

    def _add_routes(self, app: FastAPI) -> None:
        answer = {"model": self._exchange.response, "description": "The predictions, in the order of the records."}
        codes = (400, 401, 408, 413, 415, 422, 429, 500, 503, 504)
        responses: dict[int | str, dict[str, Any]] = {200: answer, **{code: {"model": ErrorBody} for code in codes}}
        app.post(f"{self._path}:predict", response_model=None, responses=responses, name="predict")(self._predict)
        written = {"description": STREAMED, "content": {EVENTS_TYPE: {}}}
        app.post(
            f"{self._path}:stream",
            response_model=None,
            response_class=StreamingResponse,
            responses={**responses, 200: written},
            name="stream",
            include_in_schema=self._streams,
        )(self._stream)
        if self._embeddings:
            self._embeddings.add(app, codes)
        self._about.add(app)
        self._inference.add(app, codes)

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """The model takes requests while inside."""
        self._queue.start()
        self._watch.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self._queue.close)
            await asyncio.to_thread(self._watch.close)

    async def _predict(self, request: Request) -> Response:
        """Predict a list of records."""
        arrived: float = request.scope["heliostat.arrived"]
        rows = self._check.rows(parse_json(await body_of(request, self._limits)))
        predictions, by = await self._predicted(request, rows)
        return JSONResponse({"predictions": predictions, **_by_whom(by, arrived)}, headers=by.header)

    async def _predicted(self, request: Request, rows: Sequence[Row], *, is_own: bool = False) -> Answered:
        """The predictions for checked records, and who made them: this version, or another one while a canary runs.

        `is_own` asks for this version. Whatever the protocol of a route, predictions come from here. Raises Refusal.
        """
        predictions, by = await unless_gone(request, self._answer(request, rows, is_own))
        self._watch.predicted(request.scope, rows, predictions, by.version)
        return Answered(predictions, by)

    async def _answer(self, request: Request, rows: Sequence[Row], is_own: bool) -> Answered:
        deadline = self._deadline(request)
        if is_own:
            return Answered(await self.rows_answered(rows, deadline), self._served)
        sender = Sender(request.scope["heliostat.key"], request.headers.get("x-client-id", ""))
        return await self.switch.answer(rows, sender, deadline=deadline)

    async def rows_answered(self, rows: Sequence[Row], deadline: float) -> list[Row]:
        """The predictions of this version for checked records. Raises Refusal."""
        return await self._queue.submit(rows, deadline=deadline)

    def checked(self, rows: Sequence[Row]) -> list[Row]:
        """Records that another version has checked, checked by the rules of this one. Raises Refusal."""
        return self._check.rows({"instances": list(rows)})

    async def _embedded(self, request: Request, rows: Sequence[Row]) -> list[Row]:
        """The vectors of checked records (`ToEmbed`): they wait in the same queue, and go to the same thread."""
        return await unless_gone(request, self._queue.submit(rows, deadline=self._deadline(request)))

    def _deadline(self, request: Request) -> float:
        return float(request.scope["heliostat.arrived"]) + self._limits.timeout_s

    def _computed(self, rows: Sequence[Row]) -> list[Row]:
        """Answers to what the queue holds: predictions, and vectors for those that are to be embedded."""
        to_embed = [row for row in rows if isinstance(row, ToEmbed)]
        if not to_embed:
            return self._model.predict(rows)
        assert isinstance(self._model, Embeds)
        vectors = iter(self._model.embed(to_embed))
        others = [row for row in rows if not isinstance(row, ToEmbed)]
        predictions = iter(self._model.predict(others) if others else [])
        return [next(vectors if isinstance(row, ToEmbed) else predictions) for row in rows]

    def _counted(self, instances: int, tokens: int) -> None:
        self._watch.metrics.predicted(instances, tokens)

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

    def _openapi(self, app: FastAPI) -> dict[str, Any]:
        if app.openapi_schema is None:
            needs_key = self._access.needs_key
            bodies = dict.fromkeys(self._inference.infer_paths, self._inference.request_schema())
            if self._embeddings:
                bodies[EMBEDDINGS] = EmbeddingRequest.model_json_schema()
            app.openapi_schema = openapi(app, self._head, self._exchange, self._path, needs_key, bodies)
        return app.openapi_schema

    async def _refused(self, request: Request, error: Exception) -> Response:
        """What the router refuses (no such route, no such method), in our shape."""
        assert isinstance(error, HTTPException)
        raise router_refusal(error, request.scope["path"], [self._served.name])


def _by_whom(served: Served, arrived: float) -> dict[str, Any]:
    return {"model": served._asdict(), "latency_ms": round((time.monotonic() - arrived) * 1000, 3)}
