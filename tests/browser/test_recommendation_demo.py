"""The page of baskets in a real Chromium: products are picked by name; what follows comes with what it went with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_products_are_picked_and_what_follows_says_why(demo: Callable[[str], str], visit: Callable[[str], Any]) -> None:
    visited = visit(demo("recommendation"))
    box = visited.page.locator("#field-history input")
    for words, product in (("cakestand 3 t", "REGENCY CAKESTAND 3 TIER"), ("85123A", "WHITE HANGING HEART")):
        box.press_sequentially(words)
        visited.page.get_by_role("option", name=product).click()
    box.press("Escape")
    visited.ask()
    visited.see("#picture", "bought together with")
    assert "REGENCY CAKESTAND 3 TIER" in visited.page.locator("#picture").inner_text()
    visited.keep("recommendation")


def test_who_bought_nothing_gets_an_answer_too(demo: Callable[[str], str], visit: Callable[[str], Any]) -> None:
    visited = visit(demo("recommendation"))
    visited.pick("nothing was bought yet")
    visited.see("#picture", "most likely next")
    assert "bought together with" not in visited.page.locator("#picture").inner_text()
