"""The Open Inference Protocol v2 beside our own routes: health, metadata and inference for its standard clients.

https://github.com/open-inference/open-inference-protocol, with the extension for binary tensors. What is refused holds
its sentence as text in `error`, as that protocol has it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from heliostat import __version__
from heliostat.component import Row
from heliostat.plugin import TaskHead
from heliostat.serve import tensors
from heliostat.serve.limits import Limits
from heliostat.serve.refusal import Refusal
from heliostat.serve.requests import body_of
from heliostat.serve.schema import RequestCheck, Served, parse_json

JSON_SIZE = "Inference-Header-Content-Length"
"""The header that says how many bytes of a body are JSON; the tensors' bytes follow."""

BINARY_TYPE = "application/octet-stream"

LIVE, READY = "/v2/health/live", "/v2/health/ready"
"""Health, which the guard lets anybody ask."""


class Answer(Protocol):
    """Predicts the records of a request."""

    def __call__(
        self, request: Request, rows: Sequence[Row], *, is_own: bool = False
    ) -> Awaitable[tuple[list[Row], Served]]:
        """The predictions of checked records, and the version that made them: with `is_own` the one that runs here.

        Raises Refusal.
        """
        ...


class InferenceError(BaseModel):
    """What a refusal holds under `/v2`."""

    error: str = Field(description="A sentence for people. It never repeats what was sent.")
    code: str = Field(description="A stable word for programs, as `text_too_long`.")
    field: str | None = Field(default=None, description="Where in the request, as `text[3]`.")
    request_id: str


def server_metadata() -> JSONResponse:
    """What `GET /v2` answers."""
    return JSONResponse({"name": "heliostat", "version": __version__, "extensions": ["binary_tensor_data"]})


class InferenceRoutes:
    """The routes of one model under `/v2`."""

    def __init__(
        self,
        head: TaskHead,
        served: Served,
        limits: Limits,
        answer: Answer,
        is_ready: Callable[[], bool],
    ) -> None:
        self._served, self._limits, self._answer, self._is_ready = served, limits, answer, is_ready
        self._check = RequestCheck(head.takes, limits)
        self._takes, self._gives = tensors.taken(head.takes), tensors.given(head.gives)
        self._paths = (f"/v2/models/{served.name}", f"/v2/models/{served.name}/versions/{served.version}")

    def names(self) -> dict[str, str]:
        """Each path with the name under which it is counted."""
        counted = {"": "v2_model", "/ready": "v2_ready", "/infer": "infer"}
        own = {f"{path}{end}": name for path in self._paths for end, name in counted.items()}
        return {**own, "/v2": "v2", **dict.fromkeys((LIVE, READY), "v2_health")}

    def add(self, app: FastAPI, codes: Sequence[int]) -> None:
        """Put the routes into an application; `codes` are the statuses of refusals, for OpenAPI."""
        responses: dict[int | str, dict[str, Any]] = {code: {"model": InferenceError} for code in codes}
        app.get("/v2", response_model=None, name="v2")(self._server)
        app.get(LIVE, response_model=None, name="v2_live")(self._live)
        app.get(READY, response_model=None, name="v2_health")(self._ready)
        for path in self._paths:
            numbered = "_version" if path != self._paths[0] else ""
            app.get(path, response_model=None, name=f"v2_model{numbered}")(self._model)
            app.get(f"{path}/ready", response_model=None, name=f"v2_ready{numbered}")(self._ready)
            infer = app.post(f"{path}/infer", response_model=None, responses=responses, name=f"infer{numbered}")
            infer(self._infer)

    def request_schema(self) -> dict[str, Any]:
        """The body of `infer` as a JSON schema, for OpenAPI."""
        tensor = {
            "type": "object",
            "required": ["name", "shape", "datatype", "data"],
            "properties": {
                "name": {"enum": [each.name for each in self._takes]},
                "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
                "datatype": {"type": "string"},
                "data": {"type": "array"},
                "parameters": {"type": "object"},
            },
        }
        inputs = {"type": "array", "items": tensor, "minItems": 1}
        rest = {"id": {"type": "string", "maxLength": 128}, "parameters": {"type": "object"}}
        outputs = {"type": "array", "items": {"type": "object", "required": ["name"]}}
        return {
            "type": "object",
            "required": ["inputs"],
            "properties": {**rest, "inputs": inputs, "outputs": outputs},
            "additionalProperties": False,
        }

    @property
    def infer_paths(self) -> list[str]:
        """The paths of inference."""
        return [f"{path}/infer" for path in self._paths]

    async def _server(self) -> JSONResponse:
        """The server and its extensions, in the form of the Open Inference Protocol."""
        return server_metadata()

    async def _live(self) -> JSONResponse:
        """Whether the process answers."""
        return JSONResponse({"live": True})

    async def _ready(self) -> JSONResponse:
        """Whether the model takes requests."""
        if not self._is_ready():
            raise Refusal(503, "not_ready", "The model takes no requests now.", headers={"Retry-After": "1"})
        return JSONResponse({"name": self._served.name, "ready": True})

    async def _model(self) -> JSONResponse:
        """The model's tensors, in the form of the Open Inference Protocol."""
        return JSONResponse(
            {
                "name": self._served.name,
                "versions": [str(self._served.version)],
                "platform": "heliostat",
                "inputs": [tensor.described() for tensor in self._takes],
                "outputs": [tensor.described() for tensor in self._gives],
            }
        )

    async def _infer(self, request: Request) -> Response:
        """Predict records that come as tensors: each field of the record is one, with an element a record."""
        body = await body_of(request, self._limits, may_be_binary=True)
        text, binary = _parts(request, body)
        rows, asked = tensors.read(parse_json(text), binary, self._takes, self._gives)
        # Whoever names a version gets that one; the others may get a canary's.
        names_version = request.scope["path"] != self.infer_paths[0]
        answers, by = await self._answer(request, self._checked(rows), is_own=names_version)
        outputs, packed = tensors.write(answers, self._gives, asked)
        answer = {"model_name": by.name, "model_version": str(by.version), "outputs": outputs}
        if asked.id is not None:
            answer["id"] = asked.id
        if not packed:
            return JSONResponse(answer, headers=by.header)
        head = json.dumps(answer, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        return Response(head + packed, media_type=BINARY_TYPE, headers={JSON_SIZE: str(len(head)), **by.header})

    def _checked(self, rows: list[Row]) -> list[Row]:
        try:
            return self._check.rows({"instances": rows})
        except Refusal as refusal:
            refusal.field = _in_tensor(refusal.field)
            raise


def _parts(request: Request, body: bytes) -> tuple[bytes, bytes]:
    """The JSON of a body and the bytes behind it."""
    size = request.headers.get(JSON_SIZE)
    if size is None:
        return body, b""
    if not (size.isascii() and size.isdigit() and len(size) <= 18 and int(size) <= len(body)):
        raise Refusal(400, "invalid_length", f"The header {JSON_SIZE} is no size of this body's JSON.")
    return body[: int(size)], body[int(size) :]


def _in_tensor(field: str | None) -> str | None:
    """The place `instances[3].text` as `text[3]`."""
    found = re.fullmatch(r"instances(\[\d+\])\.([^.\[]+)(.*)", field or "")
    return f"{found[2]}{found[1]}{found[3]}" if found else "inputs"
