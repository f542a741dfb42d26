"""What a model's application says of itself: its description, health, metrics and a page for people."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from starlette.responses import HTMLResponse, JSONResponse, Response

from heliostat.serve.description import docs_response
from heliostat.serve.embeddings import listed
from heliostat.serve.metrics import METRICS_TYPE
from heliostat.serve.refusal import Refusal


class AboutRoutes:
    """The routes that ask nothing of the model."""

    def __init__(
        self,
        name: str,
        created: int,
        describe: Callable[[], dict[str, Any]],
        is_ready: Callable[[], bool],
        metrics: Callable[[], Awaitable[bytes]],
    ) -> None:
        self._name, self._created = name, created
        self._describe, self._is_ready, self._metrics_of_all = describe, is_ready, metrics
        self._path = f"/v1/models/{name}"

    def names(self) -> dict[str, str]:
        """Each path with the name under which it is counted."""
        plain = ("healthz", "readyz", "metrics", "docs")
        return {self._path: "model", "/v1/models": "models", **{f"/{each}": each for each in plain}}

    def add(self, app: FastAPI) -> None:
        """Put the routes into an application."""
        app.get(self._path, response_model=None, name="model")(self._model)
        app.get("/v1/models", response_model=None, name="models")(self._models)
        app.get("/healthz", response_model=None, name="healthz")(self._healthz)
        app.get("/readyz", response_model=None, name="readyz")(self._readyz)
        app.get("/metrics", response_model=None, response_class=Response, name="metrics")(self._metrics)
        app.get("/docs", response_model=None, name="docs", include_in_schema=False)(self._docs)

    async def _model(self) -> JSONResponse:
        """The model's version, records, samples and limits."""
        return JSONResponse(self._describe())

    async def _models(self) -> JSONResponse:
        """The models here: their names, and OpenAI's list beside them."""
        return JSONResponse(listed({self._name: self._created}))

    async def _healthz(self) -> JSONResponse:
        """Whether the process answers."""
        return JSONResponse({"status": "ok"})

    async def _readyz(self) -> JSONResponse:
        """Whether the model takes requests."""
        if not self._is_ready():
            raise Refusal(503, "not_ready", "The model takes no requests now.", headers={"Retry-After": "1"})
        return JSONResponse({"status": "ready"})

    async def _metrics(self) -> Response:
        """Counters in the text format of Prometheus."""
        return Response(await self._metrics_of_all(), media_type=METRICS_TYPE)

    async def _docs(self) -> HTMLResponse:
        """How to ask this model, for people."""
        return docs_response([self._describe()])
