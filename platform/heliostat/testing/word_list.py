"""A model without weights behind the HTTP application: to try routes, limits and errors without training anything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
from fastapi import FastAPI
from pydantic import Field

from heliostat.plugin import Classification, Record, TaskHead
from heliostat.serve.app import build_app
from heliostat.serve.guard import Access
from heliostat.serve.limits import Limits
from heliostat.serve.schema import Served
from heliostat.serve.token import allowed_hosts

HOST = "http://127.0.0.1"
PREDICT = "/v1/models/sentiment:predict"


class Review(Record):
    """What it is asked."""

    text: str = Field(min_length=1, max_length=20_000, description="What a customer wrote.")


class Polarity(Classification):
    """What it says it is."""

    takes = Review
    samples = ({"text": "It fits beautifully."}, {"text": "The colour came off."})
    notice = "Not for <decisions>."


class WordList:
    """It counts words. Another `Answers`, small enough to reason about."""

    head: TaskHead = Polarity(Polarity.Config(labels=("negative", "positive")))

    def predict(self, examples: Sequence[dict[str, Any]], *, max_tokens: int = 8192) -> list[dict[str, Any]]:
        """More good words, more positive."""
        good = [sum(word in text["text"].lower() for word in ("good", "fits", "love")) for text in examples]
        return [
            {
                "label": "positive" if hits else "negative",
                "probabilities": {"negative": 0.5**hits, "positive": 1 - 0.5**hits},
            }
            for hits in good
        ]


def app_of(limits: Limits | None = None, access: Access | None = None) -> FastAPI:
    """Its application, as version 3 of `sentiment`."""
    return build_app(WordList(), Served("sentiment", 3), limits, access or Access(hosts=allowed_hosts("127.0.0.1")))


def ask(app: FastAPI, send: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    """Run one coroutine against an application whose lifespan has started."""

    async def run() -> Any:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url=HOST) as client:
            return await send(client)

    return asyncio.run(run())
