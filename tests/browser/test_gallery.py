"""The gallery on a real Ray Serve, in a real Chromium: five domains, a stranger's among them, signed in and refused."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

MODELS = {
    "reviews": ("sentiment", "meh"),
    "diagnoses": ("medical", "Greenstick fracture of the left radius"),
    "loans": ("finance", "Corner Cafe, Miami: $50,000"),
    "software-help": ("translation", ""),
    "machines": ("wear", ""),
}
"""Each model with its domain, and what of a sample is clicked on; the first one where nothing stands."""


class Standing(NamedTuple):
    deployment: Any
    key: str
    keys: Path


@pytest.fixture(scope="module")
def standing(home: Path, stranger: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """Five models that were trained for moments, served with keys, the gallery beside them."""
    from heliostat.demo.served import gallery
    from heliostat.models import ModelStore
    from heliostat.run import load
    from heliostat.serve.deployment import deploy
    from heliostat.serve.keys import new_key
    from heliostat.train.launch import train

    for name, (domain, _) in MODELS.items():
        few = ["data.limit=160"] if domain in ("sentiment", "medical", "translation") else []
        result = train(load(f"{domain}/tiny", ["data.engine=local", "train.max_steps=2", *few]))
        ModelStore().add(name, result.checkpoint, run_id=result.run_id, data_key="tiny", scores={})
    keys = tmp_path_factory.mktemp("gallery") / "keys.json"
    key = new_key(keys, "ada")
    with deploy(settings(keys, list(MODELS)), page=gallery) as deployment:
        yield Standing(deployment, key, keys)


def settings(keys: Path, names: list[str], *, gallery: bool = True) -> Any:
    from heliostat.serve.deploy_file import check_deployment

    return check_deployment({"models": names, "port": 0, "keys": str(keys), "gallery": gallery})


def signed_in(visited: Any, standing: Standing) -> None:
    visited.page.locator("#key").fill(standing.key)
    visited.page.get_by_role("button", name="Sign in").click()
    visited.see("#strip", "version 1", seconds=60)


def test_a_wrong_key_is_refused_and_a_right_one_opens_five_tabs_that_answer(
    standing: Standing, visit: Callable[[str], Any]
) -> None:
    visited = visit(standing.deployment.gallery)
    assert visited.page.url.endswith("/gallery/sign-in")
    visited.page.locator("#key").fill("heliostat_not-this-one")
    visited.page.get_by_role("button", name="Sign in").click()
    visited.see(".refused", "This is no valid key of this deployment.")
    visited.keep("gallery-sign-in")
    assert not visited.page.locator("#strip").count()
    signed_in(visited, standing)
    cards = visited.page.locator("#strip [data-tab]")
    assert [card.get_attribute("data-tab") for card in cards.all()] == list(MODELS)
    for name, (_, sample) in MODELS.items():
        visited.tab = f"{name}-"
        visited.page.locator(f'#strip [data-tab="{name}"]').click()
        if sample:
            visited.pick(sample)
        else:
            visited.page.locator(f"#{visited.tab}samples button").first.click()
            visited.see(f"#{visited.tab}facts", f"{name} version 1", seconds=60)
    assert visited.page.locator("#machines-picture svg").last.is_visible()  # before it, Gradio's own while it waits
    visited.see('#strip [data-tab="machines"]', re.compile(r"version 1.*ms p50.*ms p95.*[1-9]\d* a minute", re.DOTALL))
    visited.page.set_viewport_size({"width": 1280, "height": 900})
    visited.page.locator('#strip [data-tab="diagnoses"]').click()
    visited.see("#strip .open", "diagnoses")
    visited.keep("gallery")
    visited.page.set_viewport_size({"width": 390, "height": 844})
    assert visited.page.evaluate("document.documentElement.scrollWidth") == 390
    visited.keep("gallery-390")
    assert not [url for url in visited.asked if standing.key in url or "not-this-one" in url]


@pytest.mark.sweep
def test_the_tabs_follow_an_update_and_signing_out_closes_them(standing: Standing, visit: Callable[[str], Any]) -> None:
    visited = visit(standing.deployment.gallery)
    signed_in(visited, standing)
    left = [name for name in MODELS if name != "loans"]
    standing.deployment.update(settings(standing.keys, left))
    visited.see("#top .changed", "The models have changed.")
    visited.page.get_by_role("link", name="Load the page again.").click()
    visited.see("#strip", "version 1", seconds=60)
    tabs = visited.page.get_by_role("tab")
    assert {tab.inner_text() for tab in tabs.all()} == set(left)
    visited.page.get_by_role("button", name="Sign out").click()
    visited.page.wait_for_url("**/gallery/sign-in")
    visited.page.goto(standing.deployment.gallery)
    assert visited.page.url.endswith("/gallery/sign-in")
    standing.deployment.update(settings(standing.keys, left, gallery=False))
    assert standing.deployment.gallery is None
    with httpx.Client(base_url=standing.deployment.url, trust_env=False, timeout=30) as client:
        deadline = time.monotonic() + 20
        while client.get("/gallery/sign-in").status_code == 200 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert client.get("/gallery/sign-in").json()["error"]["code"] == "unauthorized"  # the index answers there now
