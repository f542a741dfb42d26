"""Ask a deployed model over HTTP. It imports neither Ray nor torch.

Client("http://127.0.0.1:8000").predict("sentiment", [{"text": "Fits beautifully."}])
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Sequence
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


class Client:
    """One deployment at one address. Keeps its connections open; `close` it, or use it as a context."""

    def __init__(self, url: str = "http://127.0.0.1:8000", token: str | None = None, timeout: float = 10.0) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.url = url.rstrip("/")
        # Proxies of the environment are left out: a deployment is reached directly, and a token goes nowhere else.
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=False)

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(self, name: str, instances: Sequence[Row]) -> Answer:
        """The predictions of a model with its version and latency. Raises RefusedError."""
        body = self._call("POST", f"/v1/models/{name}:predict", {"instances": list(instances)})
        model = body["model"]
        return Answer(body["predictions"], model["name"], model["version"], body["latency_ms"])

    def predict(self, name: str, instances: Sequence[Row]) -> list[Row]:
        """One prediction a record, in order. Raises RefusedError."""
        return self.ask(name, instances).predictions

    def stream(self, name: str, instance: Row) -> Generator[str, None, Answer]:
        """The pieces of the text that answers one record, as they are written; it returns the whole Answer.

        The search is greedy, whatever the beams of the model. Whoever stops listening ends the writing. Raises
        RefusedError, at the first piece or amid the text.
        """
        try:
            asked = {"instances": [instance]}
            with self._http.stream("POST", f"/v1/models/{name}:stream", json=asked) as response:
                if not response.is_success:
                    response.read()
                    self._body(response)
                for kind, data in _events(response.iter_lines()):
                    if kind == "piece":
                        yield data["text"]
                    elif kind == "answer":
                        model = data["model"]
                        return Answer([data["prediction"]], model["name"], model["version"], data["latency_ms"])
                    else:
                        raise self._refused(response.status_code, data)
        except httpx.HTTPError as error:
            raise self._silent(error) from None
        raise RefusedError(f"{self.url} ended amid an answer.", status=200, code="cut_off")

    def model(self, name: str) -> dict[str, Any]:
        """A model's version, records (as JSON schemas), samples, notice and limits. Raises RefusedError."""
        return self._call("GET", f"/v1/models/{name}")

    def models(self) -> list[str]:
        """The names of the models at this address. Raises RefusedError."""
        return list(self._call("GET", "/v1/models")["models"])

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        try:
            return self._body(self._http.request(method, path, json=body))
        except httpx.HTTPError as error:
            raise self._silent(error) from None

    def _body(self, response: httpx.Response) -> dict[str, Any]:
        try:
            body = response.json()
        except ValueError:
            raise RefusedError(
                f"{self.url} answered {response.status_code} without JSON: is it a deployment of Heliostat?",
                status=response.status_code,
                code="no_json",
            ) from None
        if response.is_success and isinstance(body, dict):
            return body
        raise self._refused(response.status_code, body)

    def _silent(self, error: httpx.HTTPError) -> RefusedError:
        way_out = "Is it running ('heliostat serve NAME@champion')?"
        return RefusedError(f"{self.url} does not answer ({type(error).__name__}). {way_out}")

    def _refused(self, status: int, body: Any) -> RefusedError:
        error = body.get("error", {}) if isinstance(body, dict) else {}
        if not isinstance(error, dict):
            error = {}
        field, code = error.get("field"), str(error.get("code", "unknown"))
        place = f" at {field}" if field else ""
        reason = str(error.get("message", "no reason given"))
        message = f"{self.url} answered {status} {code}{place}: {reason}"
        return RefusedError(message, status=status, code=code, field=field, reason=reason)


def _events(lines: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """The events of a stream as (name, data), as our deployments write them: one line of data each."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
