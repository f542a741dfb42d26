"""The gallery as an application: where visitors sign in and out, how the models stand, and the page itself.

It holds no model: what visitors ask goes to the deployment's own address, with their own key. It knows no Ray.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from html import escape
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from heliostat.demo.door import SIGN_IN, SIGN_OUT, Door, cookie_header, cookie_of
from heliostat.demo.editions import Editions, is_needed
from heliostat.demo.strip import Load, draw_strip, load_of
from heliostat.demo.visitors import Visitors
from heliostat.serve.guard import Access, Guard
from heliostat.serve.limits import Limits
from heliostat.serve.plans import GALLERY_PATH
from heliostat.serve.rates import Grant
from heliostat.serve.refusal import Refusal, router_refusal

LOOK_EVERY_S = 1.0
"""The models are asked how they stand this often at most, however many visitors look."""
_MOST_FORM_BYTES = 4096
_HEARTBEAT = "/gradio_api/heartbeat/"

Recently = Callable[[str], Awaitable[Sequence[Mapping[str, Any]]]]
"""What each replica of a model tells of the last minute (`Replica.recent`)."""


class GalleryRoutes:
    """The routes under `/gallery`."""

    def __init__(self, url: str, limits: Limits, access: Access, recently: Recently) -> None:
        self.names: tuple[str, ...] = ()
        """The models that are served now."""
        self._limits, self._access, self._recently = limits, access, recently
        self._visitors = Visitors(access.ring())
        self._cookie = f"heliostat-{urlsplit(url).port}"  # browsers give a cookie to all ports of a host
        self._editions = Editions(url)
        self._looking = asyncio.Lock()
        self._looked, self._loads = 0.0, list[Load]()

    def app(self) -> FastAPI:
        """The application."""
        app = FastAPI(
            openapi_url=None,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            lifespan=self._lifespan,
            exception_handlers={HTTPException: self._refused},
        )
        app.get(SIGN_IN, response_model=None)(self._form)
        app.post(SIGN_IN, response_model=None)(self._sign_in)
        app.post(SIGN_OUT, response_model=None)(self._sign_out)
        app.get(f"{GALLERY_PATH}/status", response_model=None)(self._status)
        app.get(GALLERY_PATH, response_model=None)(self._with_slash)
        app.mount(GALLERY_PATH, self._pages)
        # Only questions to models are counted, and those are counted where they are answered.
        app.add_middleware(
            Guard,
            limits=self._limits,
            access=self._access,
            answered=lambda *_: None,
            take=_any_number,
            open_paths=frozenset({SIGN_IN, SIGN_OUT}),
        )
        app.add_middleware(Door, visitors=self._visitors, cookie=self._cookie)
        return app

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        yield
        await self._editions.close()

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        raise router_refusal(error, request.scope["path"], self.names)

    async def _form(self) -> Response:
        if not self._visitors.need_key:
            return _seen(f"{GALLERY_PATH}/")
        return _sign_in_page()

    async def _sign_in(self, request: Request) -> Response:
        if not self._visitors.need_key:
            return _seen(f"{GALLERY_PATH}/")
        cookie = self._visitors.sign_in(await _key_in(request))
        if cookie is None:
            return _sign_in_page("This is no valid key of this deployment. Ask whoever runs it for one.", 401)
        return self._with_cookie(_seen(f"{GALLERY_PATH}/"), request, cookie)

    async def _sign_out(self, request: Request) -> Response:
        self._visitors.sign_out(cookie_of(request.headers, self._cookie))
        return self._with_cookie(_seen(SIGN_IN), request, "")

    def _with_cookie(self, response: Response, request: Request, value: str) -> Response:
        header = cookie_header(self._cookie, value, request.headers, request.url.scheme)
        response.headers["Set-Cookie"] = header
        return response

    async def _with_slash(self) -> Response:
        return _seen(f"{GALLERY_PATH}/")

    async def _status(self, request: Request) -> JSONResponse:
        async with self._looking:
            names = self.names  # an update may change them while the models are asked
            if time.monotonic() - self._looked > LOOK_EVERY_S or [each.name for each in self._loads] != [*names]:
                told = await asyncio.gather(*map(self._recently, names))
                self._loads = [load_of(name, each) for name, each in zip(names, told, strict=True)]
                self._looked = time.monotonic()
        key = request.scope["heliostat.key"]
        models = [load._asdict() for load in self._loads]
        return JSONResponse({"models": models, "key": key, "html": draw_strip(self._loads)})

    async def _pages(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The page at `/gallery/`, and what an edition of it loads and sends at `/gallery/<mark>/...`."""
        path: str = scope["path"].removeprefix(GALLERY_PATH)
        if path == "/" and scope["method"] in ("GET", "HEAD"):
            headers = dict(scope["headers"])
            mark = await self._editions.newest(self.names, _bearer(headers.get(b"authorization", b"")))
        else:
            first, _, rest = path.removeprefix("/").partition("/")
            kept = self._editions.marks
            if first in kept:
                mark, path = first, f"/{rest}"
            else:  # what the page at /gallery/ names relative to itself
                mark = kept[-1] if kept else ""
        app: ASGIApp | None = self._editions.app(mark)
        if path.startswith(_HEARTBEAT):  # held open for as long as the page is, it would outlive any deadline
            app = Response("data: ALIVE\n\n", media_type="text/event-stream")
        elif app is None or not is_needed(scope["method"], path):
            raise Refusal(404, "unknown_route", "There is no such route in the gallery.")
        whole = f"{GALLERY_PATH}/{mark}{path}"
        await app({**scope, "path": whole, "raw_path": whole.encode(), "root_path": ""}, receive, send)


async def _any_number(_: str, __: int, wanted: int) -> Grant:
    return Grant(wanted)


async def _key_in(request: Request) -> str:
    """The key in the form that was sent. Raises Refusal for another form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Refusal(415, "no_form", "Send the key as the form of this page does.")
    body = await request.body()
    if len(body) > _MOST_FORM_BYTES:
        raise Refusal(413, "body_too_large", f"The form has {_MOST_FORM_BYTES} bytes at most.")
    return parse_qs(body.decode("utf-8", "replace")).get("key", [""])[0].strip()


def _bearer(header: bytes) -> str | None:
    scheme, _, key = header.decode("latin-1").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def _seen(path: str) -> Response:
    return RedirectResponse(path, 303)


def _sign_in_page(refused: str = "", status: int = 200) -> Response:
    page = resources.files("heliostat.demo").joinpath("sign_in.html").read_text(encoding="utf-8")
    said = f'<div class="refused" role="alert">{escape(refused)}</div>' if refused else ""
    return HTMLResponse(page.replace("REFUSED", said).replace("PATH", SIGN_IN), status)
