"""What OpenAI's clients ask: the models here, and the embeddings of texts by models that read them."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

from heliostat.component import Row
from heliostat.plugin import TaskHead
from heliostat.serve.limits import Limits
from heliostat.serve.refusal import ErrorBody, Refusal
from heliostat.serve.requests import body_of
from heliostat.serve.schema import RequestCheck, Served, parse_json

PATH = "/v1/embeddings"

_KEYS = ("model", "input", "encoding_format", "dimensions", "user")


@runtime_checkable
class Embeds(Protocol):
    """What a served model can do besides, whose encoder gives one vector a text."""

    @property
    def embeds(self) -> str | None:
        """The field of a record whose text is embedded; None where there is none."""
        ...

    def embed(self, examples: Sequence[Row], *, max_tokens: int = 8192) -> list[Row]:
        """The `vector` (of length 1) and the count of `tokens` of each record. Called from the thread that predicts."""
        ...


class ToEmbed(dict[str, Any]):
    """A record in the queue that is to be embedded, among those to be predicted."""


class EmbeddingRequest(BaseModel):
    """Texts to embed, in OpenAI's form."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="The model's name here.")
    input: str | list[str] = Field(description="A text, or a list of texts.")
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="base64: of the little-endian bytes of 32-bit floats."
    )
    dimensions: int | None = Field(default=None, description="The length of the model's own vectors, or nothing.")
    user: str | None = Field(default=None, description="Not read.")


def can_embed(model: object) -> str | None:
    """The field that a model embeds; None when it embeds nothing."""
    return model.embeds if isinstance(model, Embeds) else None


def listed(created: Mapping[str, int]) -> dict[str, Any]:
    """`GET /v1/models`: our own list of names, and OpenAI's list beside it; `created` is in seconds since 1970."""
    return {
        "models": list(created),
        "object": "list",
        "data": [as_model(name, seconds) for name, seconds in created.items()],
    }


def as_model(name: str, created: int) -> dict[str, Any]:
    """A model as OpenAI's list has it."""
    return {"id": name, "object": "model", "created": created, "owned_by": "heliostat"}


def asked_model(value: Any, names: Sequence[str]) -> str:
    """The model that the body of a request names. Raises Refusal: 422 without one, 404 for another."""
    if not isinstance(value, dict) or "model" not in value:
        raise Refusal(422, "missing_field", "The body needs the key 'model', the name of one here.", "model")
    if not isinstance(value["model"], str) or value["model"] not in names:
        raise Refusal(404, "unknown_model", f"There is no such model here. There is: {', '.join(names)}.", "model")
    return value["model"]


class EmbeddingRoutes:
    """`POST /v1/embeddings` of one model."""

    def __init__(
        self,
        head: TaskHead,
        served: Served,
        limits: Limits,
        field: str,
        answer: Callable[[Request, Sequence[Row]], Awaitable[list[Row]]],
    ) -> None:
        self._served, self._limits, self._field, self._answer = served, limits, field, answer
        self._check = RequestCheck(head.takes, limits)

    def add(self, app: FastAPI, codes: Sequence[int]) -> None:
        """Put the route into an application; `codes` are the statuses of refusals, for OpenAPI."""
        responses: dict[int | str, dict[str, Any]] = {code: {"model": ErrorBody} for code in (*codes, 404)}
        app.post(PATH, response_model=None, responses=responses, name="embeddings")(self._embeddings)

    async def _embeddings(self, request: Request) -> JSONResponse:
        """The vectors of texts, each of length 1, as the model's encoder pools them."""
        value = parse_json(await body_of(request, self._limits))
        asked_model(value, [self._served.name])
        texts, in_base64 = _wanted(value)
        answers = await self._answer(request, [ToEmbed(row) for row in self._checked(texts)])
        vectors = [answer["vector"] for answer in answers]
        if value.get("dimensions") not in (None, len(vectors[0])):
            message = f"This model's vectors have {len(vectors[0])} dimensions, and no other."
            raise Refusal(422, "invalid_value", message, "dimensions")
        tokens = sum(answer["tokens"] for answer in answers)
        data = [
            {"object": "embedding", "index": place, "embedding": _base64(vector) if in_base64 else vector}
            for place, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "data": data, "model": self._served.name, "usage": usage})

    def _checked(self, texts: list[Any]) -> list[Row]:
        try:
            return self._check.rows({"instances": [{self._field: text} for text in texts]})
        except Refusal as refusal:
            refusal.field = (refusal.field or "").replace("instances", "input").replace(f".{self._field}", "")
            raise


def _wanted(value: Mapping[str, Any]) -> tuple[list[Any], bool]:
    """The texts of a body, and whether their vectors come as base64."""
    if unknown := [key for key in value if key not in _KEYS]:
        raise Refusal(422, "unknown_field", f"The body takes the keys {', '.join(_KEYS)}; it has {len(unknown)} other.")
    if "input" not in value:
        raise Refusal(422, "missing_field", "The body needs the key 'input', a text or a list of texts.", "input")
    dimensions = value.get("dimensions")
    if dimensions is not None and (isinstance(dimensions, bool) or not isinstance(dimensions, int)):
        raise Refusal(422, "wrong_type", "The dimensions are a whole number.", "dimensions")
    form = value.get("encoding_format", "float")
    if form not in ("float", "base64"):
        raise Refusal(422, "invalid_value", "The encoding_format is float or base64.", "encoding_format")
    texts = value["input"]
    if isinstance(texts, str):
        return [texts], form == "base64"
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise Refusal(422, "wrong_type", "The input is a text or a list of texts; token ids are not taken.", "input")
    return texts, form == "base64"


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii")
