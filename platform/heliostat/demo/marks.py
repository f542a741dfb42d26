"""Marks on a text: what each part of it was taken for, or how much it moved the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import gradio as gr

from heliostat.component import Row
from heliostat.demo.look import named
from heliostat.plugin import Demo
from heliostat.serve.client import Client

Marks = Sequence[tuple[str, str | float | None]]

MOST_PARTS = 60
"""Parts of a text that are left out one at a time; of a longer one, words are left out together."""

FAINTEST = 0.05
"""A change of the probability that is marked in full at least: smaller ones are not made to look like much."""

_WORD = re.compile(r"\S+\s*")


def draw_marks(prefix: str = "") -> gr.HighlightedText:
    """The component, hidden until there is something to mark; it stands where `render` is called."""
    look: dict[str, Any] = {"show_legend": True, "combine_adjacent": False, "render": False}
    return gr.HighlightedText(label="Marked", visible=False, **named("marks", prefix), **look)


def marks_of(
    client: Client, name: str, demo: Demo, record: Row, prediction: Row, most: int = MOST_PARTS
) -> gr.HighlightedText:
    """What the plugin marks; or else, where it names a text, which of its words moved the answer.

    Raises ServeError as `moved` does.
    """
    marks: Marks = list(demo.marks(record, prediction))
    label = "Marked"
    if not marks and demo.moved_by:
        marks, label = moved(client, name, demo, record, prediction, most), "What moved the answer"
    return gr.HighlightedText(value=list(marks), label=label, visible=bool(marks))


def moved(client: Client, name: str, demo: Demo, record: Row, prediction: Row, most: int = MOST_PARTS) -> Marks:
    """Each part of the text, with how much less probable the answer is without it, from -1 to 1.

    Occlusion (Zeiler and Fergus 2014): the model is asked about the text without the part. 1 stands for the part that
    counts most, or for a change of FAINTEST, whichever is more. A request may hold `most` records. Raises ServeError
    as the client does.
    """
    text, bars = record.get(demo.moved_by), demo.bars(prediction)
    parts = split_up(text, most) if isinstance(text, str) else []
    if len(parts) < 2 or not bars:
        return []
    answer = max(bars, key=bars.__getitem__)
    without = [
        {**record, demo.moved_by: "".join(parts[:place] + parts[place + 1 :]).strip()} for place in range(len(parts))
    ]
    changes = [bars[answer] - demo.bars(other).get(answer, 0.0) for other in client.predict(name, without)]
    scale = max(FAINTEST, *map(abs, changes))
    return [(part, round(change / scale, 3)) for part, change in zip(parts, changes, strict=True)]


def split_up(text: str, most: int = MOST_PARTS) -> list[str]:
    """The words with the space behind them; put together so that there are `most` and MOST_PARTS at most."""
    words: list[Any] = _WORD.findall(text.strip())
    size = -(-len(words) // min(most, MOST_PARTS))
    return ["".join(words[start : start + size]) for start in range(0, len(words), max(1, size))]
