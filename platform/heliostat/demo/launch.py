"""Start the page of one or more served models and stay until somebody ends it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from heliostat.errors import PluginError, ServeError
from heliostat.plugin import Demo, TaskHead
from heliostat.registry import find
from heliostat.serve.client import Client

LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def launch(names: Sequence[str], *, url: str, host: str, port: int, token_file: Path | None) -> None:
    """Serve the pages of `names` until Ctrl-C or SIGTERM.

    Raises ServeError when the deployment does not answer, or when a wider address than loopback is asked for without a
    token: then the page asks for it (user `heliostat`).
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    token = token_file.read_text(encoding="utf-8").strip() if token_file else None
    if host not in LOOPBACK and not token:
        raise ServeError(f"a demo on {host} is open to others: give it a token with --token-file FILE.")
    auth = ("heliostat", token) if token and host not in LOOPBACK else None
    with opened(Client(url, token=token), names, host=host, port=port, auth=auth) as local:
        Console().print(f"demo      {local}  (Ctrl-C ends it)")
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        ended.wait()


@contextmanager
def opened(
    client: Client,
    names: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    auth: tuple[str, str] | None = None,
) -> Iterator[str]:
    """The address at which the pages of `names` are served, until the context ends. Port 0 takes a free one.

    Raises ServeError when the deployment does not answer.
    """
    from heliostat.demo.gallery import build_gallery
    from heliostat.demo.look import LOOK

    page = build_gallery(client, {name: demo_of(client, name) for name in names})
    settings = {"prevent_thread_lock": True, "quiet": True, "share": False, "ssr_mode": False, "footer_links": []}
    _, local, _ = page.launch(server_name=host, server_port=port or None, auth=auth, **LOOK, **settings)
    try:
        yield local
    finally:
        page.close(verbose=False)


def demo_of(client: Client, name: str) -> Demo | None:
    """What the plugin of a served model says about its page, where that plugin is installed here."""
    address = client.model(name).get("head")
    try:
        demo = find(address, TaskHead).demo if address else None  # type: ignore[type-abstract]
    except PluginError:
        return None
    return demo() if demo else None
