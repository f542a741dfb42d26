"""The gallery's page as it was drawn for the models that were served then, and the ones before it.

Gradio draws a page once, for everybody. Where other models are served, another edition is drawn, at a path of its own,
so that whoever has an older one open goes on asking by it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from fastapi import FastAPI

from heliostat.errors import ServeError
from heliostat.serve.client import Client, Retry
from heliostat.serve.plans import GALLERY_PATH

MOST = 3
"""Editions that are kept."""

_PAGE = re.compile(r"/|/config|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static|svelte)/.+")
_READ = re.compile(r"/gradio_api/(info|startup-events|app_id|queue/data)/?")
_SENT = re.compile(r"/gradio_api/(queue/join|run/predict|cancel|reset)/?")


def is_needed(method: str, path: str) -> bool:
    """Whether the page needs a route of Gradio. The others (uploads, files, proxies, runs) are closed to everybody."""
    if method == "POST":
        return bool(_SENT.fullmatch(path))
    return method in ("GET", "HEAD") and bool(_PAGE.fullmatch(path) or _READ.fullmatch(path))


class _Edition(NamedTuple):
    app: FastAPI
    ending: AsyncExitStack


class Editions:
    """The editions of one gallery; `close` it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._kept: OrderedDict[str, _Edition] = OrderedDict()
        self._drawing = asyncio.Lock()
        self._clients: Any = None

    @property
    def marks(self) -> list[str]:
        """Of each that is kept, the word in its path; the newest last."""
        return list(self._kept)

    async def newest(self, names: Sequence[str], token: str | None) -> str:
        """The mark of the edition for the models of these names, which is drawn where it is not there yet.

        `token` is the key of whoever asks first: what models say of themselves is closed, too.
        """
        abouts = await asyncio.to_thread(_abouts, self._url, names, token)
        said = {name: {**about, "ready": True} if about else None for name, about in abouts.items()}
        mark = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]
        async with self._drawing:
            if mark not in self._kept:
                self._kept[mark] = await self._drawn(mark, abouts)
            self._kept.move_to_end(mark)
            while len(self._kept) > MOST:
                _, old = self._kept.popitem(last=False)
                await old.ending.aclose()
        return mark

    def app(self, mark: str) -> FastAPI | None:
        """The application of an edition that is kept; its routes lie at `/gallery/<mark>`."""
        return self._kept[mark].app if mark in self._kept else None

    async def close(self) -> None:
        """End all editions."""
        while self._kept:
            await self._kept.popitem()[1].ending.aclose()
        if self._clients:
            self._clients.close()

    async def _drawn(self, mark: str, abouts: dict[str, Any]) -> _Edition:
        app = await asyncio.to_thread(self._draw, mark, abouts)  # seconds, the first time: Gradio is imported
        ending = AsyncExitStack()
        await ending.enter_async_context(app.router.lifespan_context(app))
        return _Edition(app, ending)

    def _draw(self, mark: str, abouts: dict[str, Any]) -> FastAPI:
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        from heliostat.demo.clients import Clients
        from heliostat.demo.gallery import build_gallery, mount_gallery

        self._clients = self._clients or Clients(self._url)
        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        mount_gallery(app, build_gallery(self._clients, abouts), f"{GALLERY_PATH}/{mark}", abouts)
        return app


def _abouts(url: str, names: Sequence[str], token: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with Client(url, token=token, timeout=5.0, retry=Retry(total_s=1.0)) as client:
        for name in names:
            try:
                found[name] = client.model(name)
            except ServeError:
                found[name] = None
    return found
