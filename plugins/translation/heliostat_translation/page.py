"""The page of a translation model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import ClassVar

from heliostat.plugin import Demo, Row

_CARD = "background:#fff;color:#1d2733;border-radius:8px;padding:14px 16px;margin-bottom:10px;line-height:1.4"
_HEAD = "color:#66727f;font-size:12.5px;margin-bottom:6px"
_WARN = "background:#fff7e8;color:#5c3b00;border-left:4px solid #c77700;padding:6px 10px;margin-top:10px"
_NOTHING = '<span style="color:#66727f;font-weight:400">(nothing)</span>'


class TranslationDemo(Demo):
    """Source, translation, the nearest pair that was trained on, and how probable each beam is."""

    title: ClassVar[str] = "Software help, translated"
    description: ClassVar[str] = (
        "The model has read the help of an office suite; of other texts it knows little. Below the translation stand "
        "the pair of its lessons that is most like the text, and all that its search found."
    )

    def bars(self, answer: Row) -> Mapping[str, float]:
        """None: the picture says it."""
        return {}

    def picture(self, answer: Row) -> str:
        """The translation, the nearest pair that was trained on, and each beam with its score."""
        return _translation(answer) + _nearest(answer.get("nearest")) + _beams(answer["beams"])


def _translation(answer: Row) -> str:
    lost = ", ".join(escape(mark) for mark in answer.get("lost", ()))
    warning = f'<div style="{_WARN}">Not the same in both texts: <b>{lost}</b></div>' if lost else ""
    return _card(
        "translation", f'<div style="font-size:20px;font-weight:600">{escape(answer["answer"])}</div>{warning}'
    )


def _nearest(known: Row | None) -> str:
    if not known:
        return ""
    head = f"nearest pair that was trained on, {known['similarity']:.0%} alike"
    return _card(head, f"<div>{escape(known['text'])}</div><div><i>{escape(known['answer'])}</i></div>")


def _beams(beams: list[Row]) -> str:
    return _card("what the search found, and how probable a token of it is on average", "".join(map(_beam, beams)))


def _beam(beam: Row) -> str:
    share = math.exp(min(0.0, beam["score"]))  # the geometric mean of the probabilities of its tokens
    score = f'<span style="color:#66727f;white-space:nowrap">{share:.0%} (score {beam["score"]:.2f})</span>'
    words = escape(beam["answer"]) or _NOTHING
    bar = f"height:4px;border-radius:2px;margin-top:4px;background:#6366f1;width:{100 * share:.1f}%"
    return (
        '<div style="padding:6px 0;border-top:1px solid #eef1f4">'
        f'<div style="display:flex;gap:10px;justify-content:space-between"><span>{words}</span>{score}'
        f'</div><div style="{bar}"></div></div>'
    )


def _card(head: str, body: str) -> str:
    return f'<div style="{_CARD}"><div style="{_HEAD}">{escape(head)}</div>{body}</div>'
