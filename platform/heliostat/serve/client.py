"""Ask a deployed model over HTTP. It imports neither Ray nor torch.

Client("http://127.0.0.1:8000").predict("sentiment", [{"text": "Fits beautifully."}])

`AsyncClient` has the same methods to be awaited. Both act out one course of a request (`_course`), which knows when to
send and when to wait, and does neither itself.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any, NamedTuple, Self

import httpx

from heliostat.component import Row
from heliostat.serve.reply import Answer, Answering, RefusedError, body_of, silent
from heliostat.serve.retry import Retry, Wait

__all__ = ["Answer", "AsyncClient", "Client", "RefusedError", "Retry"]

URL = "http://127.0.0.1:8000"


class Sent(NamedTuple):
    """A request, as both clients send it."""

    method: str
    path: str
    body: Any = None
    key: str | None = None
    """One word for all tries: the deployment notes each under it."""

    def headers(self) -> dict[str, str]:
        """The key, by its usual name and by the one that the deployment writes down and answers with."""
        return {"Idempotency-Key": self.key, "X-Request-ID": self.key} if self.key else {}


def _course(
    url: str, retry: Retry, sent: Sent
) -> Generator[Sent | Wait, httpx.Response | httpx.HTTPError | None, httpx.Response]:
    """How one request goes on: what to send, or how long to wait, told each time what came of it; the response at last.

    Raises RefusedError when nothing answers.
    """
    started, tries = time.monotonic(), 0
    while True:
        outcome = yield sent
        assert outcome is not None, "what is sent comes to something"
        tries += 1
        wait = retry.after(tries, time.monotonic() - started, outcome)
        if wait is None:
            break
        yield wait
    if isinstance(outcome, httpx.HTTPError):
        raise silent(url, outcome, tries)
    return outcome


def _predict(name: str, instances: Sequence[Row], key: str | None) -> Sent:
    return Sent("POST", f"/v1/models/{name}:predict", {"instances": list(instances)}, key or uuid.uuid4().hex)


def _stream(name: str, instance: Row, key: str | None) -> Sent:
    return Sent("POST", f"/v1/models/{name}:stream", {"instances": [instance]}, key or uuid.uuid4().hex)


def _embed(name: str, texts: Sequence[str]) -> Sent:
    return Sent("POST", "/v1/embeddings", {"model": name, "input": list(texts)}, uuid.uuid4().hex)


def _settings(url: str, token: str | None, timeout: float) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    # Proxies of the environment are left out: a deployment is reached directly, and a token goes nowhere else.
    return {"base_url": url, "headers": headers, "timeout": timeout, "trust_env": False}


class Client:
    """One deployment at one address. Keeps its connections open; `close` it, or use it as a context.

    What cannot be reached or is busy is tried again, for `retry.total_s` seconds.
    """

    def __init__(
        self, url: str = URL, token: str | None = None, timeout: float = 10.0, retry: Retry | None = None
    ) -> None:
        """`timeout`: seconds that one try may take."""
        self.url = url.rstrip("/")
        self._retry = retry or Retry()
        self._http = httpx.Client(**_settings(self.url, token, timeout))

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(self, name: str, instances: Sequence[Row], *, key: str | None = None) -> Answer:
        """The predictions of a model with its version and latency. Raises RefusedError.

        `key` is a plain word under which the deployment notes the request, however often it is sent; one is made up
        when it is missing. A prediction changes nothing, so a second try computes it again.
        """
        return Answer.of(self._call(_predict(name, instances, key)))

    def predict(self, name: str, instances: Sequence[Row]) -> list[Row]:
        """One prediction a record, in order. Raises RefusedError."""
        return self.ask(name, instances).predictions

    def stream(self, name: str, instance: Row, *, key: str | None = None) -> Generator[str, None, Answer]:
        """The pieces of the text that answers one record, as they are written; it returns the whole Answer.

        The search is greedy, whatever the beams of the model. Whoever stops listening ends the writing. It is tried
        again until the first piece. Raises RefusedError, at the first piece or amid the text.
        """
        response = self._sent(_stream(name, instance, key), stream=True)
        try:
            if not response.is_success:
                response.read()
                body_of(self.url, response)
            answering = Answering(self.url)
            for line in response.iter_lines():
                piece = answering.read(line)
                if isinstance(piece, Answer):
                    return piece
                if piece is not None:
                    yield piece
        except httpx.HTTPError as error:
            raise silent(self.url, error, 1) from None
        finally:
            response.close()
        raise answering.cut_off()

    def embed(self, name: str, texts: Sequence[str]) -> list[list[float]]:
        """The vector of each text, of length 1, by a model that gives some (`model(name)["embeds"]`).

        Raises RefusedError.
        """
        return [each["embedding"] for each in self._call(_embed(name, texts))["data"]]

    def model(self, name: str) -> dict[str, Any]:
        """A model's version, records (as JSON schemas), samples, notice and limits. Raises RefusedError."""
        return self._call(Sent("GET", f"/v1/models/{name}"))

    def models(self) -> list[str]:
        """The names of the models at this address. Raises RefusedError."""
        return list(self._call(Sent("GET", "/v1/models"))["models"])

    def _call(self, sent: Sent) -> dict[str, Any]:
        return body_of(self.url, self._sent(sent))

    def _sent(self, sent: Sent, *, stream: bool = False) -> httpx.Response:
        course, outcome = _course(self.url, self._retry, sent), None
        try:
            while True:
                step = course.send(outcome)
                if isinstance(step, Wait):
                    if isinstance(outcome, httpx.Response):
                        outcome.close()
                    time.sleep(step.seconds)
                    outcome = None
                else:
                    outcome = self._try(step, stream)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def _try(self, sent: Sent, stream: bool) -> httpx.Response | httpx.HTTPError:
        request = self._http.build_request(sent.method, sent.path, json=sent.body, headers=sent.headers())
        try:
            return self._http.send(request, stream=stream)
        except httpx.HTTPError as error:
            return error


class AsyncClient:
    """As `Client`, for programs with an event loop: `await client.predict(...)`. `await aclose()` it, or `async with`.

    It may ask many things at once.
    """

    def __init__(
        self, url: str = URL, token: str | None = None, timeout: float = 10.0, retry: Retry | None = None
    ) -> None:
        """`timeout`: seconds that one try may take."""
        self.url = url.rstrip("/")
        self._retry = retry or Retry()
        self._http = httpx.AsyncClient(**_settings(self.url, token, timeout))

    def __repr__(self) -> str:
        return f"AsyncClient({self.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(self, name: str, instances: Sequence[Row], *, key: str | None = None) -> Answer:
        """As `Client.ask`."""
        return Answer.of(await self._call(_predict(name, instances, key)))

    async def predict(self, name: str, instances: Sequence[Row]) -> list[Row]:
        """As `Client.predict`."""
        return (await self.ask(name, instances)).predictions

    async def stream(self, name: str, instance: Row, *, key: str | None = None) -> AsyncGenerator[str | Answer, None]:
        """The pieces of the text that answers one record, and last the whole Answer; otherwise as `Client.stream`."""
        response = await self._sent(_stream(name, instance, key), stream=True)
        try:
            if not response.is_success:
                await response.aread()
                body_of(self.url, response)
            answering = Answering(self.url)
            async for line in response.aiter_lines():
                piece = answering.read(line)
                if piece is not None:
                    yield piece
                if isinstance(piece, Answer):
                    return
        except httpx.HTTPError as error:
            raise silent(self.url, error, 1) from None
        finally:
            await response.aclose()
        raise answering.cut_off()

    async def embed(self, name: str, texts: Sequence[str]) -> list[list[float]]:
        """As `Client.embed`."""
        return [each["embedding"] for each in (await self._call(_embed(name, texts)))["data"]]

    async def model(self, name: str) -> dict[str, Any]:
        """As `Client.model`."""
        return await self._call(Sent("GET", f"/v1/models/{name}"))

    async def models(self) -> list[str]:
        """As `Client.models`."""
        return list((await self._call(Sent("GET", "/v1/models")))["models"])

    async def _call(self, sent: Sent) -> dict[str, Any]:
        return body_of(self.url, await self._sent(sent))

    async def _sent(self, sent: Sent, *, stream: bool = False) -> httpx.Response:
        course, outcome = _course(self.url, self._retry, sent), None
        try:
            while True:
                step = course.send(outcome)
                if isinstance(step, Wait):
                    if isinstance(outcome, httpx.Response):
                        await outcome.aclose()
                    await asyncio.sleep(step.seconds)
                    outcome = None
                else:
                    outcome = await self._try(step, stream)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    async def _try(self, sent: Sent, stream: bool) -> httpx.Response | httpx.HTTPError:
        request = self._http.build_request(sent.method, sent.path, json=sent.body, headers=sent.headers())
        try:
            return await self._http.send(request, stream=stream)
        except httpx.HTTPError as error:
            return error
