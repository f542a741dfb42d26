"""The page of a loan's risk in a real Chromium: a form, a gauge, the reasons and the notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_a_loan_is_asked_about_and_its_risk_is_drawn_with_reasons(
    demo: Callable[[str], str], visit: Callable[[str], Any]
) -> None:
    visited = visit(demo("finance"))
    visited.see("#notice", "Not for credit decisions")
    visited.pick("Corner Cafe, Miami: $50,000")
    assert visited.value("business") == "Corner Cafe"
    before = visited.page.locator("#picture").text_content()
    visited.fill("amount", "2000000")
    visited.ask()
    visited.changes("#picture", before)
    for words in ("%", "risk of default", "counted as", "what each field adds", "amount"):
        visited.see("#picture svg", words)
    visited.keep("finance")


def test_a_day_in_the_future_is_answered_with_a_sentence(
    demo: Callable[[str], str], visit: Callable[[str], Any]
) -> None:
    visited = visit(demo("finance"))
    visited.pick("Lakeside Dental Care, Bismarck: $750,000")
    visited.fill("approved", "2999-01-01")
    visited.refused("Approved: Date should not lie in the future.")
    assert not visited.page.locator("#picture").is_visible()
