"""The page of a translation in a real Chromium: source, translation, the nearest trained pair, each beam's score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_a_text_is_translated_beside_its_beams_and_the_nearest_pair(
    demo: Callable[[str], str], visit: Callable[[str], Any]
) -> None:
    visited = visit(demo("translation"))
    visited.fill("text", "Select the cells that you want to copy.")
    visited.ask()
    visited.see("#picture", "translation")
    visited.see("#picture", "nearest pair that was trained on")
    visited.see("#picture", "what the search found")
    assert visited.page.locator("#picture").inner_text().count("(score -") >= 2
    assert not visited.page.locator("#field-source").is_visible()  # it has one value only
    visited.keep("translation")


def test_a_mark_that_the_translation_lost_is_named(demo: Callable[[str], str], visit: Callable[[str], Any]) -> None:
    visited = visit(demo("translation"))
    visited.fill("text", "The file %1 could not be saved to <b>%2</b>.")
    visited.ask()
    visited.see("#picture", "<b>")
