"""The page of a help desk in a real Chromium: the product, the words that moved it, and the pages to read on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_a_question_gets_a_product_and_pages_to_read_on(
    demo: Callable[[str], str], visit: Callable[[str], Any]
) -> None:
    visited = visit(demo("helpdesk"))
    visited.pick("How do I merge two cells")
    visited.see("#answer", "%")
    visited.see("#marks", "cells")
    visited.see("#picture", "Where to read on")
    visited.see("#picture", "Merge")
    visited.keep("helpdesk")


def test_words_that_no_page_has_get_no_page(demo: Callable[[str], str], visit: Callable[[str], Any]) -> None:
    visited = visit(demo("helpdesk"))
    visited.fill("text", "zzz")
    visited.ask()
    assert not visited.page.locator("#picture").is_visible()
