"""The head of a Ray cluster: its address, its token, and the client of its Jobs API."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from heliostat.errors import ClusterError
from heliostat.ray_session import close_token, token_path

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

LOCAL = "http://127.0.0.1:8265"
"""Where the dashboard of a Ray on this machine listens, which answers the Jobs API."""
PATIENCE_S = 10.0
_TALKATIVE = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers of Ray that tell users what goes on inside."""
_ENVIRONMENT = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_ADDRESS = re.compile(r"(?:(?P<scheme>[a-z]+)://)?(?P<host>\[[^]]+\]|\w[^:/\s]*)(?::(?P<port>\d{1,5}))?(?P<path>/\S*)?")


def head_url(address: str | None = None) -> str:
    """The URL of the Jobs API that `address` means, or else the environment, or else this machine.

    `RAY_API_SERVER_ADDRESS` comes before `RAY_ADDRESS`. Raises ClusterError for the address of another of Ray's ports.
    """
    found = ((os.environ[name], name) for name in _ENVIRONMENT if os.environ.get(name))
    text, origin = (address, "--address") if address else next(found, (LOCAL, ""))
    if text in ("auto", "local"):
        return LOCAL
    parts = _ADDRESS.fullmatch(text.strip())
    if not parts:
        raise ClusterError(f"{origin} is '{text}', which is no address. It takes the form http://HOST:8265.")
    scheme, host, port = parts["scheme"] or "http", parts["host"], parts["port"]
    if scheme == "ray" or port in ("6379", "10001"):
        raise ClusterError(
            f"{origin} is '{text}', a port of Ray that takes no jobs. Jobs go to the dashboard of the head: "
            f"--address http://{host}:8265."
        )
    if scheme not in ("http", "https"):
        raise ClusterError(f"{origin} is '{text}'; an address begins with http:// or https://.")
    is_bare = not port and not parts["scheme"]
    return f"{scheme}://{host}{':8265' if is_bare else f':{port}' if port else ''}{(parts['path'] or '').rstrip('/')}"


class Reached(NamedTuple):
    """A head that has answered."""

    url: str
    headers: dict[str, str]
    ray: str
    """Its version of Ray."""


def reach(address: str | None = None, token_file: Path | None = None) -> Reached:
    """Ask the head at `address` for its version, with the token where it asks for one. Ray is not imported.

    Raises ClusterError when nobody answers there, or when the token is refused.
    """
    url = head_url(address)
    headers = _headers(url, token_file) if _asks_for_a_token(url) else {}
    response = _get(f"{url}/api/version", headers)
    _check_answer(url, response, token_file)
    return Reached(url, headers, str(response.json()["ray_version"]))


def connect(address: str | None = None, token_file: Path | None = None) -> JobSubmissionClient:
    """A client of the Jobs API at `address`. Raises ClusterError as `reach` does."""
    reached = reach(address, token_file)
    with _only(reached.url):
        from ray.job_submission import JobSubmissionClient

        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        return JobSubmissionClient(reached.url, headers=reached.headers)


@contextmanager
def _only(url: str) -> Iterator[None]:
    """Let Ray take no other address: its environment variables come before what it is given."""
    before = {name: os.environ.pop(name) for name in _ENVIRONMENT if name in os.environ}
    os.environ["RAY_API_SERVER_ADDRESS"] = url
    try:
        yield
    finally:
        del os.environ["RAY_API_SERVER_ADDRESS"]
        os.environ.update(before)


def _asks_for_a_token(url: str) -> bool:
    response = _get(f"{url}/api/authentication_mode", {})
    try:
        return bool(response.json().get("authentication_mode") == "token")
    except (ValueError, AttributeError):
        return False  # what answers is looked at with the next request


def _get(url: str, headers: dict[str, str]) -> Any:
    import httpx

    try:
        return httpx.get(url, headers=headers, timeout=PATIENCE_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        url = url.partition("/api/")[0]
        why = "did not answer in time" if isinstance(error, httpx.TimeoutException) else "cannot be reached"
        raise ClusterError(
            f"{url} {why}. Is the head up (`ray start --head`), and is this its address? From outside of its network "
            "forward the port: ssh -L 8265:127.0.0.1:8265 HEAD."
        ) from None


def _headers(url: str, token_file: Path | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {read_token(url, token_file)}"}


def read_token(url: str, token_file: Path | None = None) -> str:
    """The token for the cluster at `url`: that of a file, of `RAY_AUTH_TOKEN`, or of Ray's own file.

    Raises ClusterError when there is none.
    """
    if token_file is None and os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"].strip()
    path = token_file or token_path()
    try:
        token = path.expanduser().read_text(encoding="utf-8").strip()
        close_token(path.expanduser())
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(
            f"the cluster at {url} asks for a token, and none can be read in {path} ({type(error).__name__}). Write "
            "there what `ray get-auth-token` prints on the head, for your eyes alone (chmod 600), or name another "
            "file with --token-file."
        ) from None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ClusterError(f"{path} holds no token: it is one word, alone in its file.")
    return token


def _check_answer(url: str, response: Any, token_file: Path | None) -> None:
    if response.status_code in (401, 403) and "uthentication token" in response.text:
        held = (
            "RAY_AUTH_TOKEN" if token_file is None and os.environ.get("RAY_AUTH_TOKEN") else token_file or token_path()
        )
        raise ClusterError(
            f"the cluster at {url} refused the token of {held} ({response.status_code}). Put there what "
            "`ray get-auth-token` prints on the head, or name another file with --token-file."
        )
    if response.status_code != 200 or "ray_version" not in response.text:
        raise ClusterError(
            f"{url} answers ({response.status_code}), and not as the head of a Ray cluster does. The Jobs API is where "
            "Ray's dashboard is, port 8265 by default; is a proxy in between (http_proxy, no_proxy)?"
        )
