"""The one shape in which a request is refused: `{"error": {"code", "message", "field"}}`. It repeats no input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

OPENAI_PATHS = frozenset({"/v1/embeddings"})
"""Routes of OpenAI's form, whose refusals have its two keys `type` and `param` besides."""


class Reason(BaseModel):
    """Why a request was refused."""

    code: str = Field(description="A stable word for programs, as `text_too_long`.")
    message: str = Field(description="A sentence for people. It never repeats what was sent.")
    field: str | None = Field(default=None, description="Where in the body, as `instances[3].text`.")
    request_id: str = Field(default="", description="As in the header X-Request-ID; name it when you report this.")


class ErrorBody(BaseModel):
    """The body of every answer that is no success."""

    error: Reason


class Refusal(Exception):
    """A request that is answered with an error; raised anywhere below the guard, which renders it."""

    def __init__(
        self, status: int, code: str, message: str, field: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{status} {code}")
        self.status, self.code, self.message, self.field = status, code, message, field
        self.headers = dict(headers or {})

    def body(self, request_id: str) -> dict[str, Any]:
        """The one shape."""
        reason = Reason(code=self.code, message=self.message, field=self.field, request_id=request_id)
        return ErrorBody(error=reason).model_dump()

    def response(self, request_id: str, path: str = "") -> JSONResponse:
        """The answer in the one shape; on the routes of other protocols with what their clients look for in it."""
        body = self.body(request_id)
        if path == "/v2" or path.startswith("/v2/"):  # the Open Inference Protocol's `error` is the sentence
            reason = body["error"]
            body = {"error": reason.pop("message"), **reason}
        elif path in OPENAI_PATHS:
            kind = "invalid_request_error" if self.status < 500 else "server_error"
            body["error"] |= {"type": kind, "param": self.field}
        return JSONResponse(body, self.status, headers=self.headers)


def router_refusal(error: HTTPException, path: str, models: Sequence[str]) -> Refusal:
    """What the router refuses (no such route, no such method), as a Refusal that repeats no path."""
    if error.status_code == 404 and path.startswith(("/v1/models/", "/v2/models/")):
        return Refusal(404, "unknown_model", f"There is no such model here. There is: {', '.join(models)}.")
    if error.status_code == 404:
        return Refusal(404, "unknown_route", "There is no such route. See /docs.")
    if error.status_code == 405:
        return Refusal(405, "method_not_allowed", "This route takes another method.", headers=error.headers)
    return Refusal(error.status_code, "refused", "The request cannot be answered.", headers=error.headers)


def closing() -> Refusal:
    """The answer to what waits when a deployment ends."""
    return Refusal(503, "shutting_down", "The deployment is being stopped.", headers={"Retry-After": "1"})


def late() -> Refusal:
    """The deadline of a request passed."""
    message = "The answer took longer than this deployment allows. Try again, or send less."
    return Refusal(504, "deadline_exceeded", message)
