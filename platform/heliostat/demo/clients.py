"""The clients by which the gallery asks for its visitors: each with the key that its visitor holds."""

from __future__ import annotations

import threading
from collections import OrderedDict

import gradio as gr

from heliostat.serve.client import Client

MOST = 64
"""Clients whose connections stay open."""


class Clients:
    """A client a key. Called from many threads."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Client] = OrderedDict()

    def of(self, request: gr.Request | None) -> Client:
        """The client for whoever sent a request; the door has put their key into its headers."""
        scheme, _, key = (request.headers.get("authorization", "") if request else "").partition(" ")
        token = key.strip() if scheme.lower() == "bearer" else ""
        with self._lock:
            client = self._open.get(token) or Client(self._url, token=token or None)
            self._open[token] = client
            self._open.move_to_end(token)
            if len(self._open) > MOST:
                self._open.popitem(last=False)  # closed once nobody asks by it any more
        return client

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for client in self._open.values():
                client.close()
            self._open.clear()
