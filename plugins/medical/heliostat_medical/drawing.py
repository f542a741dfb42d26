"""A place in the code set as HTML, without scripts: what the page shows of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_CARD = "background:#fff;color:#1d2733;border-radius:8px;padding:14px 16px;line-height:1.4"
_MUTED = "color:#66727f;font-size:12.5px"
_MOST = 4
"""Sections that are named."""


def draw_path(path: Sequence[str], choices: Sequence[Mapping[str, float]]) -> str:
    """The path from the chapter down, each place with its probability, and the most probable last places."""
    steps = "".join(
        f'<div style="padding-left:{22 * depth}px;font-size:{19 - 2 * depth}px;font-weight:600">'
        f"{'&#8627; ' if depth else ''}{escape(name)} <span style='{_MUTED}'>{share.get(name, 0.0):.0%}</span></div>"
        for depth, (name, share) in enumerate(zip(path, choices, strict=True))
    )
    others = [(name, share) for name, share in choices[-1].items() if name != path[-1]][: _MOST - 1]
    rows = "".join(f'<div style="{_MUTED}">{escape(name)}, {share:.0%}</div>' for name, share in others)
    more = f'<div style="{_MUTED};margin-top:10px;font-weight:600">or else</div>{rows}' if rows else ""
    return f'<div style="{_CARD}">{steps}{more}</div>'
