"""A gauge and bars as one piece of SVG, without scripts: what the page shows of an answer."""

from __future__ import annotations

import math
from html import escape

from heliostat.plugin import Row

_INK, _MUTED, _RAISES, _LOWERS = "#1d2733", "#66727f", "#b3261e", "#1b7a45"
_MOST_REASONS = 8
_LEAST = 0.0005
"""Reasons below this are not drawn."""


def draw_risk(answer: Row) -> str:
    """The risk as a half-circle from 0 to 100 %, and below it the fields that raise or lower it."""
    risk = min(max(float(answer["risk"]), 0.0), 1.0)
    added = sorted(answer.get("reasons", {}).items(), key=lambda each: -abs(each[1]))
    reasons = [(str(name), float(value)) for name, value in added if abs(value) >= _LEAST][:_MOST_REASONS]
    height = 208 + 26 * len(reasons)
    return (
        f'<svg viewBox="0 0 440 {height}" width="100%" role="img" font-family="system-ui, sans-serif" '
        f'aria-label="Risk {risk:.0%}"><rect width="440" height="{height}" rx="8" fill="#fff"/>'
        f"{_gauge(risk, str(answer.get('label', '')))}{_bars(reasons)}</svg>"
    )


def _gauge(risk: float, label: str) -> str:
    x, y = _on_arc(risk)
    return (
        f'<path d="M110 130 A110 110 0 0 1 330 130" fill="none" stroke="#e6eaef" stroke-width="22"/>'
        f'<path d="M110 130 A110 110 0 0 1 {x:.1f} {y:.1f}" fill="none" stroke="{_colour(risk)}" stroke-width="22"/>'
        f'<text x="220" y="118" text-anchor="middle" font-size="40" font-weight="700" fill="{_INK}">{risk:.0%}</text>'
        f'<text x="220" y="140" text-anchor="middle" font-size="13" fill="{_MUTED}">risk of default</text>'
        f'<text x="220" y="162" text-anchor="middle" font-size="14" font-weight="600" fill="{_INK}">'
        f"{f'counted as {escape(label.replace(chr(95), chr(32)))}' if label else ''}</text>"
    )


def _on_arc(risk: float) -> tuple[float, float]:
    angle = math.pi * (1.0 - risk)
    return 220 + 110 * math.cos(angle), 130 - 110 * math.sin(angle)


def _colour(risk: float) -> str:
    return _LOWERS if risk < 0.1 else "#c77700" if risk < 0.3 else _RAISES


def _bars(reasons: list[tuple[str, float]]) -> str:
    if not reasons:
        return ""
    widest = max(abs(value) for _, value in reasons)
    head = f'<text x="16" y="194" font-size="12" fill="{_MUTED}">what each field adds (percentage points)</text>'
    return head + "".join(_bar(place, *reason, widest) for place, reason in enumerate(reasons))


def _bar(place: int, name: str, value: float, widest: float) -> str:
    top, length = 204 + 26 * place, 95 * abs(value) / widest
    left = 260.0 if value > 0 else 260.0 - length
    words = escape(name.replace("_", " "))
    return (
        f'<text x="16" y="{top + 13}" font-size="13" fill="{_INK}">{words}</text>'
        f'<rect x="{left:.1f}" y="{top + 2}" width="{length:.1f}" height="14" rx="2" '
        f'fill="{_RAISES if value > 0 else _LOWERS}"/>'
        f'<text x="424" y="{top + 13}" font-size="12" text-anchor="end" fill="{_MUTED}">{100 * value:+.1f}</text>'
    )
