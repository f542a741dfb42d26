"""Normal forms of a text: without markup, in one Unicode form, with single spaces. Each is linear in its length."""

from __future__ import annotations

import html
import re
import unicodedata

_BLOCK = re.compile(r"</?(?:br|p|div|li|ul|ol|tr|td|th|table|h[1-6]|hr|section|article|blockquote)\b[^<>]*>", re.I)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<![a-zA-Z][^<>]*>")
_AMPERSANDS = re.compile(r"&(?:(?:amp|#0{0,6}38|#x0{0,6}26);)+", re.I)
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]")
"""Soft hyphens, zero-width spaces and marks of direction. Joiners stay: Persian, Indic scripts and emoji need them."""
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_BLANKS, _LINES = re.compile(r"[^\S\n]+"), re.compile(r"\s*\n\s*")


def without_html(text: str) -> str:
    """The text that a page shows: tags, comments, scripts and styles gone, entities as the characters they stand for.

    What is no tag stays, as in `I <3 it` or `x < y`.
    """
    if "<" in text:
        text = _cut(text, "<!--", "-->")
        for name in ("script", "style"):
            text = _cut(text, f"<{name}", f"</{name}>")
        text = _TAG.sub("", _BLOCK.sub("\n", text))
    if "&" in text:
        text = html.unescape(_AMPERSANDS.sub("&amp;", text))
    return text


def _cut(text: str, begin: str, end: str) -> str:
    """The text without what stands between two marks; an open one that is never closed stays."""
    low = text.lower()
    if begin not in low or len(low) != len(text):  # a character whose small form is longer moves all places
        return text
    kept, place = [], 0
    while (start := low.find(begin, place)) >= 0 and (stop := low.find(end, start)) >= 0:
        kept.append(text[place:start])
        place = stop + len(end)
    return " ".join([*kept, text[place:]])


def in_one_form(text: str) -> str:
    """Unicode NFKC, without control characters and without characters that nobody sees."""
    text = unicodedata.normalize("NFKC", text.replace("\r\n", "\n").replace("\r", "\n"))
    return _CONTROL.sub(" ", _INVISIBLE.sub("", text))


def single_spaced(text: str) -> str:
    """Runs of blanks as one, line breaks as one, none at the ends."""
    return _LINES.sub("\n", _BLANKS.sub(" ", text)).strip()
