"""Start the page of a served model and stay until somebody ends it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from heliostat.errors import ServeError
from heliostat.serve.client import Client
from heliostat.serve.token import is_loopback, read_token


def launch(name: str, *, url: str, host: str, port: int, token_file: Path | None) -> None:
    """Serve the page of a model until Ctrl-C or SIGTERM.

    Raises ServeError when the deployment does not answer, when the port is taken, when the file holds no token, or when
    a wider address than loopback is asked for without one: there the page asks for it (user `heliostat`).
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    token = read_token(token_file) if token_file else None
    if not is_loopback(host) and not token:
        raise ServeError(f"a demo on {host} is open to others: give it a token with --token-file FILE.")
    auth = ("heliostat", token) if token and not is_loopback(host) else None
    with opened(Client(url, token=token), name, host=host, port=port, auth=auth) as local:
        Console().print(f"demo      {local}  (Ctrl-C ends it)")
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        ended.wait()


@contextmanager
def opened(
    client: Client,
    name: str,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    auth: tuple[str, str] | None = None,
) -> Iterator[str]:
    """The address at which the page of a model is served, until the context ends. Port 0 takes a free one.

    Raises ServeError when the deployment does not answer, or when nobody can listen at the port.
    """
    from heliostat.demo.look import LOOK
    from heliostat.demo.page import build_page

    page = build_page(client, name)
    settings = {"prevent_thread_lock": True, "quiet": True, "share": False, "ssr_mode": False, "footer_links": []}
    try:
        _, local, _ = page.launch(server_name=host, server_port=port or None, auth=auth, **LOOK, **settings)
    except OSError as error:
        raise ServeError(
            f"the page cannot listen on {host}, port {port} ({str(error).splitlines()[0]}). Something else may have "
            "the port: name another with --port, or take a free one with --port 0."
        ) from error
    try:
        yield local
    finally:
        page.close(verbose=False)
