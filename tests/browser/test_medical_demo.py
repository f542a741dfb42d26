"""The page of a medical model in a real Chromium: words that moved the answer are marked, beside the notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_words_that_moved_the_answer_are_marked(demo: Callable[[str], str], visit: Callable[[str], Any]) -> None:
    visited = visit(demo("medical"))
    visited.see("#notice", "Not for clinical decisions.")
    visited.pick("Greenstick fracture of the left radius")
    visited.see("#marks", "fracture")
    visited.see("#picture", "or else")
    visited.see("#answer", "%")
    visited.keep("medical")
