"""What a deployment's replies mean to its clients: predictions, pieces of a text, or an error. It sends nothing."""

from __future__ import annotations

import json
from typing import Any, NamedTuple, Self

import httpx

from heliostat.component import Row
from heliostat.errors import ServeError


class RefusedError(ServeError):
    """The deployment refused a request, or could not be reached."""

    def __init__(
        self, message: str, *, status: int = 0, code: str = "unreachable", field: str | None = None, reason: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; 0 when nothing answered."""
        self.code = code
        """The deployment's word for the reason, as `text_too_long`."""
        self.field = field
        """The place in the request, as `instances[3].text`."""
        self.reason = reason or message
        """The deployment's sentence alone, without address and place."""


class Answer(NamedTuple):
    """Predictions with who made them and how long it took."""

    predictions: list[Row]
    name: str
    version: int
    latency_ms: float
    """Milliseconds inside the deployment."""

    @classmethod
    def of(cls, body: dict[str, Any]) -> Self:
        """The answer in the body of a reply."""
        model = body["model"]
        return cls(body["predictions"], model["name"], model["version"], body["latency_ms"])


class Answering:
    """An answer that comes piece by piece, as our deployments write it: one line of data an event."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._event = ""

    def read(self, line: str) -> str | Answer | None:
        """What a line brings: a piece, the whole answer at the end, or nothing yet. Raises RefusedError."""
        if line.startswith("event: "):
            self._event = line.removeprefix("event: ")
        if not line.startswith("data: "):
            return None
        data = json.loads(line.removeprefix("data: "))
        if self._event == "piece":
            return str(data["text"])
        if self._event == "answer":
            return Answer.of({**data, "predictions": [data["prediction"]]})
        raise refused(self._url, 200, data)

    def cut_off(self) -> RefusedError:
        """The lines ended before the answer did."""
        return RefusedError(f"{self._url} ended amid an answer.", status=200, code="cut_off")


def body_of(url: str, response: httpx.Response) -> dict[str, Any]:
    """The JSON of a reply. Raises RefusedError for any other, and for what is no success."""
    try:
        body = response.json()
    except ValueError:
        raise RefusedError(
            f"{url} answered {response.status_code} without JSON: is it a deployment of Heliostat?",
            status=response.status_code,
            code="no_json",
        ) from None
    if response.is_success and isinstance(body, dict):
        return body
    raise refused(url, response.status_code, body)


def refused(url: str, status: int, body: Any) -> RefusedError:
    """What the body of a refusal says."""
    error = body.get("error", {}) if isinstance(body, dict) else {}
    if not isinstance(error, dict):
        error = {}
    field, code = error.get("field"), str(error.get("code", "unknown"))
    place = f" at {field}" if field else ""
    reason = str(error.get("message", "no reason given"))
    message = f"{url} answered {status} {code}{place}: {reason}"
    return RefusedError(message, status=status, code=code, field=field, reason=reason)


def silent(url: str, error: httpx.HTTPError, tries: int) -> RefusedError:
    """Nothing answered, in so many tries."""
    often = f" in {tries} tries" if tries > 1 else ""
    way_out = "Is it running ('heliostat serve NAME@champion')?"
    return RefusedError(f"{url} does not answer{often} ({type(error).__name__}). {way_out}")
