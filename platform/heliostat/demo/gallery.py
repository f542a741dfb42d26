"""Every served model behind one address: a tab each."""

from __future__ import annotations

from collections.abc import Mapping

import gradio as gr

from heliostat.demo.page import build_page, draw_model
from heliostat.plugin import Demo
from heliostat.serve.client import Client


def build_gallery(client: Client, demos: Mapping[str, Demo | None]) -> gr.Blocks:
    """One page for all models of `demos`; a single model has the page to itself."""
    if len(demos) == 1:
        return build_page(client, *next(iter(demos.items())))
    with gr.Blocks(title="Heliostat", analytics_enabled=False) as page:
        for name, demo in demos.items():
            with gr.Tab(name):
                draw_model(client, name, demo)
    return page
