"""The page of sentiment in a real Chromium, against a real deployment on Ray Serve: asked, corrected, asked badly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def demo_url(home: Path, page_of: Callable[..., Any]) -> Iterator[str]:
    """A sentiment model trained for seconds, stored, served by Ray Serve, with its page in front."""
    from heliostat.models.store import ModelStore
    from heliostat.run import load
    from heliostat.serve.deployment import serve
    from heliostat.train.launch import train

    result = train(load("sentiment/tiny"))
    store = ModelStore()
    version = store.add("sentiment", result.checkpoint, run_id=result.run_id, data_key="tiny", scores={})
    store.promote("sentiment", version.version, "champion")
    with serve(["sentiment@champion"], port=0) as deployment, page_of(deployment.url, "sentiment") as url:
        yield url


def test_a_person_asks_and_corrects(demo_url: str, home: Path, visit: Callable[[str], Any]) -> None:
    visited = visit(demo_url)
    visited.fill("text", "The fabric is gorgeous and it fits beautifully. I love it!")
    visited.ask()
    visited.see("#answer", "%")
    visited.see("#answer", "neutral")
    visited.page.get_by_role("radio", name="neutral").check()
    visited.page.locator("#keep-correction").click()
    visited.see("#kept", "Kept as a labelled example")
    visited.keep("sentiment")
    kept = [json.loads(line) for line in (home / "labels" / "sentiment.jsonl").read_text().splitlines()]
    assert kept[0]["label"] == "neutral"
    assert kept[0]["text"].startswith("The fabric is gorgeous")
    assert kept[0]["_correction"]["model"] == "sentiment:1"


def test_an_empty_question_is_answered_with_a_sentence(demo_url: str, visit: Callable[[str], Any]) -> None:
    visit(demo_url).refused("Text: ")
