"""A ranked list as HTML, without scripts: what the page shows of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_CARD = "background:#fff;color:#1d2733;border-radius:8px;padding:14px 16px;font-size:14px;line-height:1.35"
_MUTED = "color:#66727f;font-size:12.5px"


def draw_products(products: Sequence[tuple[str, float, Sequence[str]]]) -> str:
    """Each product with its share and why: (its description, its share, what it was bought together with)."""
    most = max((share for _, share, _ in products), default=0.0) or 1.0
    rows = "".join(_row(place + 1, *product, most) for place, product in enumerate(products))
    return f'<div style="{_CARD}"><div style="{_MUTED};margin-bottom:8px">most likely next</div>{rows}</div>'


def _row(place: int, text: str, share: float, why: Sequence[str], most: float) -> str:
    reason = f'<div style="{_MUTED}">bought together with {escape(", ".join(why))}</div>' if why else ""
    return (
        f'<div style="display:flex;gap:10px;padding:7px 0;border-top:1px solid #eef1f4">'
        f'<div style="width:20px;text-align:right;color:#66727f">{place}</div><div style="flex:1;min-width:0">'
        f'<div style="display:flex;justify-content:space-between;gap:8px"><span style="font-weight:600">{escape(text)}'
        f'</span><span style="color:#66727f;white-space:nowrap">{_percent(share)}</span></div>'
        f'<div style="height:4px;border-radius:2px;margin:4px 0;background:#6366f1;width:{100 * share / most:.1f}%">'
        f"</div>{reason}</div></div>"
    )


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}" if share >= 0.001 else "< 0.1%"
