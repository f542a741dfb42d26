"""How every page looks: the fonts of the reader's own machine, one accent, room for what matters."""

from __future__ import annotations

from typing import Any

import gradio as gr

_FONTS = ["system-ui", "sans-serif"]
"""Fonts of the reader's own machine: the page loads nothing from elsewhere."""

_THEME = gr.themes.Soft(font=_FONTS, font_mono=["ui-monospace", "monospace"])

_CSS = """
.hs-notice { border-left: 4px solid #c77700; background: #fff7e8; padding: .6rem .9rem; border-radius: 4px; }
.hs-notice .hs-notice { border: 0; padding: 0; background: none; }
.hs-notice * { color: #5c3b00; }
.hs-answer h2 { font-size: 1.5rem; line-height: 1.25; text-align: left; padding-left: 0; padding-right: 0; }
.hs-answer .label, .hs-answer .text { font-family: system-ui, sans-serif; }
.hs-facts { font-size: .9rem; }
.hs-picture, .hs-picture > div, .hs-picture .html-container { padding: 0; }
.hs-written { background: var(--block-background-fill); color: var(--body-text-color); border-radius: 8px; }
.hs-written { padding: 14px 16px; font-size: 20px; font-weight: 600; line-height: 1.4; }
.hs-written::after { content: "\\258d"; font-weight: 400; opacity: .5; }
"""

LOOK: dict[str, Any] = {"theme": _THEME, "css": _CSS}
"""Arguments of `launch`."""


def named(word: str, prefix: str = "") -> dict[str, Any]:
    """The id and the class of a part of a page; ids of several models on one page differ by their prefix."""
    return {"elem_id": f"{prefix}{word}", "elem_classes": [f"hs-{word}"]}
