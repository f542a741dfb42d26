"""The middleware at the gallery's door: cookies become keys, other sites stay out, a browser is shown where to sign in.

Whether a key is valid, whether the Host is ours and how large a body may be is what the guard behind it checks, as on
every other route.
"""

from __future__ import annotations

from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heliostat.demo.visitors import SIGNED_IN_S, Visitors
from heliostat.serve.guard import ON_EVERY_ANSWER, request_id_of
from heliostat.serve.plans import GALLERY_PATH
from heliostat.serve.refusal import Refusal

SIGN_IN, SIGN_OUT = f"{GALLERY_PATH}/sign-in", f"{GALLERY_PATH}/sign-out"

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
"""The page loads nothing from elsewhere, and stands in no frame of another one."""
_ADDED = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "same-origin", "X-Frame-Options": "DENY"}
_ASSETS = ("/assets/", "/static/", "/theme.css")
_MINUTES_KEPT = "private, max-age=3600"


class Door:
    """ASGI middleware around the gallery and its guard."""

    def __init__(self, app: ASGIApp, visitors: Visitors, cookie: str) -> None:
        self._app = app
        self._visitors = visitors
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in, with the key of its visitor."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["method"] not in ("GET", "HEAD") and is_foreign(headers):
            id = request_id_of(scope)
            refusal = Refusal(403, "foreign_origin", "A page of another site sent this.", headers={"X-Request-ID": id})
            refusal.headers |= ON_EVERY_ANSWER
            await refusal.response(id)(scope, receive, send)
            return
        key = self._visitors.key_of(cookie_of(headers, self._cookie))
        if key is not None and "authorization" not in headers:
            scope = {**scope, "headers": [*scope["headers"], (b"authorization", f"Bearer {key}".encode())]}
        await self._app(scope, receive, _Out(scope, headers, send).send)


class _Out:
    """An answer on its way out."""

    def __init__(self, scope: Scope, headers: Headers, send: Send) -> None:
        self._path: str = scope["path"]
        self._is_page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
        self._send = send
        self._is_swallowed = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] == 401 and self._is_page and self._path != SIGN_IN:
                self._is_swallowed = True
                kept = [pair for pair in message["headers"] if pair[0] == b"x-request-id"]
                message = {**message, "status": 303, "headers": [*kept, (b"location", SIGN_IN.encode())]}
            self._dress(MutableHeaders(scope=message), message["status"])
        elif self._is_swallowed:
            message = {**message, "body": b""}
        await self._send(message)

    def _dress(self, headers: MutableHeaders, status: int) -> None:
        for name in [name for name in headers if name.startswith("access-control-")]:
            del headers[name]
        for name, value in {**ON_EVERY_ANSWER, **_ADDED}.items():
            headers[name] = value
        if status == 200 and any(part in self._path for part in _ASSETS):  # the same for everybody, and large
            headers["Cache-Control"] = _MINUTES_KEPT


def is_foreign(headers: Mapping[str, str]) -> bool:
    """Whether a page of another site sent a request, as the browser says."""
    if site := headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host", "")


def cookie_of(headers: Mapping[str, str], name: str) -> str:
    """The value of a cookie; empty where there is none."""
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def cookie_header(name: str, value: str, headers: Mapping[str, str], scheme: str) -> str:
    """The header that keeps a cookie, or with an empty value forgets it: no script reads it, no other site sends it."""
    is_secure = scheme == "https" or headers.get("x-forwarded-proto", "").startswith("https")
    lasts = int(SIGNED_IN_S) if value else 0
    secure = "; Secure" if is_secure else ""
    return f"{name}={value}; Path={GALLERY_PATH}; Max-Age={lasts}; HttpOnly; SameSite=Strict{secure}"
