"""How every page looks: the fonts of the reader's own machine, one accent, room for what matters."""

from __future__ import annotations

from typing import Any

import gradio as gr

_FONTS = ["system-ui", "sans-serif"]
"""Fonts of the reader's own machine: the page loads nothing from elsewhere."""

_THEME = gr.themes.Soft(font=_FONTS, font_mono=["ui-monospace", "monospace"])

_CSS = """
#notice { border-left: 4px solid #c77700; background: #fff7e8; padding: .6rem .9rem; border-radius: 4px; }
#notice * { color: #5c3b00; }
#answer h2 { font-size: 1.5rem; line-height: 1.25; text-align: left; padding-left: 0; padding-right: 0; }
#answer .label, #answer .text { font-family: system-ui, sans-serif; }
#facts { font-size: .9rem; }
#picture, #picture > div, #picture .html-container { padding: 0; }
"""

LOOK: dict[str, Any] = {"theme": _THEME, "css": _CSS}
"""Arguments of `launch`."""
