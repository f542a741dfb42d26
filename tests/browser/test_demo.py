"""The demo in a real Chromium, against a real deployment on Ray Serve."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARTIFACTS = Path(os.environ.get("HELIOSTAT_ARTIFACTS", "artifacts"))
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELIOSTAT_HOME", str(folder))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        yield folder


@pytest.fixture(scope="module")
def demo_url(home: Path) -> Iterator[str]:
    """A sentiment model trained for seconds, stored, served by Ray Serve, with its page in front."""
    from heliostat.demo.gallery import build_gallery
    from heliostat.demo.launch import demo_of
    from heliostat.demo.page import THEME
    from heliostat.models.store import ModelStore
    from heliostat.run import load
    from heliostat.serve.client import Client
    from heliostat.serve.deployment import serve
    from heliostat.train.launch import train

    result = train(load("sentiment/tiny"))
    store = ModelStore()
    version = store.add("sentiment", result.checkpoint, run_id=result.run_id, data_key="tiny", scores={})
    store.promote("sentiment", version.version, "champion")
    deployment = serve(["sentiment@champion"], port=0)
    try:
        client = Client(deployment.url, token=deployment.token)
        page = build_gallery(client, {"sentiment": demo_of(client, "sentiment")})
        _, url, _ = page.launch(
            server_name="127.0.0.1", theme=THEME, prevent_thread_lock=True, quiet=True, share=False, ssr_mode=False
        )
        yield url
        page.close(verbose=False)
    finally:
        deployment.stop()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_a_person_asks_and_corrects(demo_url: str, home: Path) -> None:
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1100, "height": 640})
        elsewhere: list[str] = []
        page.on("request", lambda request: elsewhere.append(request.url) if not _is_here(request.url) else None)
        page.goto(demo_url)
        page.locator("#field-text textarea").fill("The fabric is gorgeous and it fits beautifully. I love it!")
        page.locator("#ask").click()
        playwright.expect(page.locator("#facts")).to_contain_text(re.compile(r"version 1 in \d+ ms"), timeout=60_000)
        answer = page.locator("#answer").inner_text()
        assert any(label in answer for label in ("positive", "negative", "neutral"))
        assert "%" in answer
        page.screenshot(path=str(ARTIFACTS / "demo.png"), full_page=True)
        page.get_by_role("radio", name="neutral").check()
        page.locator("#keep-correction").click()
        playwright.expect(page.locator("#kept")).to_contain_text("Kept as a labelled example", timeout=20_000)
        assert [url for url in elsewhere if not url.startswith(("data:", "blob:"))] == []
        browser.close()
    kept = [json.loads(line) for line in (home / "labels" / "sentiment.jsonl").read_text().splitlines()]
    assert kept[0]["label"] == "neutral"
    assert kept[0]["text"].startswith("The fabric is gorgeous")
    assert kept[0]["_correction"]["model"] == "sentiment:1"


def _is_here(url: str) -> bool:
    return url.startswith(("http://127.0.0.1", "http://localhost", "data:", "blob:"))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_an_empty_question_is_answered_with_a_sentence(demo_url: str) -> None:
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        page.goto(demo_url)
        page.locator("#ask").click()
        playwright.expect(page.locator(".toast-wrap")).to_contain_text("text", timeout=30_000)
        browser.close()
