"""Package indexes, read by pip's own settings: where the archives of a package lie, and what is in them.

pip builds a source archive to learn its name, which runs the archive's code. Here an archive is a file with a hash and
nothing else. The pages are those of PEP 503 and PEP 691.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit
from urllib.request import url2pathname

from heliostat.errors import DataError

if TYPE_CHECKING:
    import httpx

_PYPI = "https://pypi.org/simple"
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_BLOCK = 1 << 20


class Link(NamedTuple):
    """An archive, as an index names it."""

    url: str
    sha256: str | None
    """What the index says of it; None where it says nothing."""

    @property
    def file(self) -> str:
        """The archive's own name."""
        return unquote(urlsplit(self.url).path).rpartition("/")[2]


def pip_settings() -> dict[str, str]:
    """What pip's files and environment say (`index-url`, `find-links`, `cert`, ...). Raises DataError without pip."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise DataError(f"pip's settings cannot be read ({reason})")
    said = [line.partition("=") for line in done.stdout.splitlines()]
    found: dict[str, str] = {}
    for section in ("global", "download", ":env:"):  # each wins over those before it
        for key, sign, value in said:
            owner, _, name = key.rpartition(".")
            if sign and owner == section:
                found[name] = str(ast.literal_eval(value))
    return found


def links(name: str, settings: Mapping[str, str]) -> Iterator[Link]:
    """Every archive of a package, place after place. Raises DataError in the end where a place could not be asked."""
    away: DataError | None = None
    for page in _pages(name, settings):
        try:
            yield from _on(page, settings)
        except DataError as error:
            away = away or error  # another place may have it
    if away:
        raise away


def download(link: Link, path: Path, settings: Mapping[str, str]) -> None:
    """Write what lies behind a link into a new file. Raises DataError when it cannot be had."""
    if local := _path(link.url):
        shutil.copyfile(local, path)
        return
    with path.open("wb") as file, _asked(link.url, settings) as answer:
        for block in answer.iter_raw(_BLOCK):  # some servers say that a .tar.gz is a packed .tar
            file.write(block)


def fits(file: str, name: str, version: str) -> bool:
    """Whether an archive bears this name and version."""
    return _plain(file).startswith(f"{_plain(name)}-{_plain(version)}-")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pages(name: str, settings: Mapping[str, str]) -> Iterator[str]:
    for place in settings.get("find-links", "").split():
        yield place if "://" in place else Path(place).expanduser().absolute().as_uri()
    if settings.get("no-index", "").lower() not in ("1", "true", "yes", "on", "t", "y"):
        indexes = [settings.get("index-url", _PYPI), *settings.get("extra-index-url", "").split()]
        yield from (f"{index.rstrip('/')}/{_plain(name)}/" for index in indexes)


def _on(page: str, settings: Mapping[str, str]) -> Iterator[Link]:
    """The links of one page, or the files of one folder; none where there is no such thing."""
    local = _path(page)
    if local is None:
        with _asked(page, settings, accept=_ACCEPT, may_lack=True) as answer:
            answer.read()
            is_json = answer.headers.get("content-type", "").partition(";")[0].strip().endswith("+json")
            url = str(answer.url)
            yield from _of_json(answer.json(), url) if is_json else _of_html(answer.text, url)
        return
    if local.is_dir() and not (local / "index.html").is_file():
        yield from (Link(file.as_uri(), None) for file in sorted(local.iterdir()) if file.is_file())
        return
    local = local / "index.html" if local.is_dir() else local
    if local.is_file():
        yield from _of_html(local.read_text(encoding="utf-8", errors="replace"), local.as_uri())


def _path(url: str) -> Path | None:
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _of_json(page: Any, url: str) -> Iterator[Link]:
    for file in page.get("files", ()):
        yield Link(urljoin(url, file["url"]), file.get("hashes", {}).get("sha256"))


def _of_html(page: str, url: str) -> Iterator[Link]:
    anchors = _Anchors()
    anchors.feed(page)
    for link in anchors.links:
        plain, fragment = urldefrag(urljoin(url, link))
        yield Link(plain, fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None)


class _Anchors(HTMLParser):
    """What the anchors of a page lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the address of an anchor."""
        self.links += [value for name, value in attrs if tag == "a" and name == "href" and value]


@contextmanager
def _asked(
    url: str, settings: Mapping[str, str], *, accept: str = "*/*", may_lack: bool = False
) -> Iterator[httpx.Response]:
    """The answer of an index. `may_lack`: that it knows nothing of it is an answer, too: an empty page."""
    import httpx

    shown = urlunsplit(urlsplit(url)._replace(netloc=urlsplit(url).netloc.rpartition("@")[2]))  # without a password
    timeout = float(settings.get("timeout") or settings.get("default-timeout") or 15)
    try:
        with (
            httpx.Client(
                auth=_credentials(url, settings),
                follow_redirects=True,
                timeout=timeout,
                proxy=settings.get("proxy"),
                verify=_trust(url, settings),
            ) as client,
            client.stream("GET", shown, headers={"Accept": accept, "Accept-Encoding": "identity"}) as answer,
        ):
            if answer.status_code == 404 and may_lack:
                yield httpx.Response(200, text="", request=answer.request)
            elif answer.status_code != 200:
                raise DataError(f"{shown} answers {answer.status_code}")
            else:
                yield answer
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
        raise DataError(f"{shown}: {type(error).__name__}: {error}") from None


def _credentials(url: str, settings: Mapping[str, str]) -> httpx.Auth | None:
    """What an address or an index of the same host says of user and password, or else ~/.netrc."""
    import netrc

    import httpx

    indexes = " ".join(settings.get(name, "") for name in ("index-url", "extra-index-url", "find-links")).split()
    for parts in map(urlsplit, [url, *indexes]):
        if parts.username and parts.hostname == urlsplit(url).hostname:
            return httpx.BasicAuth(unquote(parts.username), unquote(parts.password or ""))
    try:
        return httpx.NetRCAuth()
    except (OSError, netrc.NetrcParseError):  # there is none, or it is no netrc
        return None


def _trust(url: str, settings: Mapping[str, str]) -> ssl.SSLContext | bool:
    """The certificates that pip would trust: those that are named, or else the system's and certifi's."""
    import certifi

    parts = urlsplit(url)
    if {parts.hostname, f"{parts.hostname}:{parts.port}"} & set(settings.get("trusted-host", "").split()):
        return False
    named = settings.get("cert") or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    context = ssl.create_default_context(cafile=named)
    if not named:
        context.load_verify_locations(certifi.where())
    if settings.get("client-cert"):
        context.load_cert_chain(settings["client-cert"])
    return context
