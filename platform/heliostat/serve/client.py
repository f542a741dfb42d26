"""Ask a deployed model over HTTP. It imports neither Ray nor torch.

Client("http://127.0.0.1:8000").predict("sentiment", [{"text": "Fits beautifully."}])
"""

from __future__ import annotations

from collections.abc import Sequence
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
        body = self._call("POST", f"/v1/models/{name}:predict", json={"instances": list(instances)})
        model = body["model"]
        return Answer(body["predictions"], model["name"], model["version"], body["latency_ms"])

    def predict(self, name: str, instances: Sequence[Row]) -> list[Row]:
        """One prediction a record, in order. Raises RefusedError."""
        return self.ask(name, instances).predictions

    def model(self, name: str) -> dict[str, Any]:
        """A model's version, records (as JSON schemas), samples, notice and limits. Raises RefusedError."""
        return self._call("GET", f"/v1/models/{name}")

    def models(self) -> list[str]:
        """The names of the models at this address. Raises RefusedError."""
        return list(self._call("GET", "/v1/models")["models"])

    def _call(self, method: str, path: str, json: Any = None) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, json=json)
            body = response.json()
        except httpx.HTTPError as error:
            way_out = "Is it running ('heliostat serve NAME@champion')?"
            raise RefusedError(f"{self.url} does not answer ({type(error).__name__}). {way_out}") from None
        except ValueError:
            raise RefusedError(
                f"{self.url} answered {response.status_code} without JSON: is it a deployment of Heliostat?",
                status=response.status_code,
                code="no_json",
            ) from None
        if response.is_success and isinstance(body, dict):
            return body
        raise self._refused(response.status_code, body)

    def _refused(self, status: int, body: Any) -> RefusedError:
        error = body.get("error", {}) if isinstance(body, dict) else {}
        if not isinstance(error, dict):
            error = {}
        field, code = error.get("field"), str(error.get("code", "unknown"))
        place = f" at {field}" if field else ""
        reason = str(error.get("message", "no reason given"))
        message = f"{self.url} answered {status} {code}{place}: {reason}"
        return RefusedError(message, status=status, code=code, field=field, reason=reason)
