"""Every served model on one page: how each stands on top, a tab each below."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from importlib import resources
from typing import Any

import gradio as gr

from heliostat.demo.clients import Clients
from heliostat.demo.look import LOOK
from heliostat.demo.page import Model, demo_of, draw_model
from heliostat.serve.plans import GALLERY_PATH

_TOP = """
<header><span class="brand"><svg viewBox="0 0 32 32" width="26" height="26" aria-hidden="true">
<circle cx="16" cy="13" r="6" fill="#f59e0b"/><path d="M3 23 L29 17 L29 20.5 L3 26.5 Z" fill="#6366f1"/></svg>
Heliostat</span><span class="who" hidden><span class="long">signed in as</span> <b></b>
<form method="post" action="{path}/sign-out"><button type="submit">Sign out</button></form></span></header>
<div class="changed" role="status" hidden>The models have changed. <a href="{path}/">Load the page again.</a></div>
<div id="strip" aria-label="How the models stand">{waiting}</div>
"""
MOST_SESSIONS = 500
"""Open pages whose last question is kept, for a correction."""
_WAITING = '<div class="card"><span class="name"><i></i>{name}</span><span class="about">...</span></div>'

Abouts = Mapping[str, Mapping[str, Any] | None]
"""Of each model, by its name, what `Client.model` says; None for one that does not answer."""


def build_gallery(clients: Clients, abouts: Abouts) -> gr.Blocks:
    """The page of all models; their names are in order."""
    with gr.Blocks(title="Heliostat", analytics_enabled=False, elem_id="gallery") as page:
        waiting = "".join(_WAITING.format(name=escape(name)) for name in abouts)
        gr.HTML(_TOP.format(path=GALLERY_PATH, waiting=waiting), elem_id="top", padding=False)
        with gr.Tabs(overflow_behavior="wrap", elem_id="tabs"):
            for name, about in abouts.items():
                with gr.Tab(name, id=name, elem_id=f"tab-{name}"):
                    _draw_tab(clients, name, about)
    page.queue(default_concurrency_limit=8, max_size=256)
    page.state_session_capacity = MOST_SESSIONS
    return page


def _draw_tab(clients: Clients, name: str, about: Mapping[str, Any] | None) -> None:
    if about is None:
        gr.Markdown(f"# {name}\nThis model does not answer now. Load the page again when the strip above shows it.")
        return
    draw_model(Model(name, about, demo_of(about), clients.of, f"{name}-"))


def mount_gallery(app: Any, page: gr.Blocks, path: str, abouts: Abouts) -> Any:
    """Mount the page at a path of an application, with its look and without what Gradio adds of its own."""
    said = {name: about["version"] if about else None for name, about in abouts.items()}
    settings = {"path": GALLERY_PATH, "versions": said}
    script = _file("gallery.js").replace("SETTINGS", json.dumps(settings).replace("<", "\\u003c"))
    look = {**LOOK, "css": LOOK["css"] + _file("gallery.css"), "head": f"<script>{script}</script>"}
    without: dict[str, Any] = {"footer_links": [], "run_history": False, "ssr_mode": False, "mcp_server": False}
    without |= {"enable_monitoring": False, "pwa": False, "show_error": False, "max_file_size": 1}
    return gr.mount_gradio_app(app, page, path, **look, **without)


def _file(name: str) -> str:
    return resources.files("heliostat.demo").joinpath(name).read_text(encoding="utf-8")
