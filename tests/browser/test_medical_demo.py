"""The page of a medical model in a real Chromium: words that moved the answer are marked, beside the notice."""

from __future__ import annotations

import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARTIFACTS = Path(os.environ.get("HELIOSTAT_ARTIFACTS", "artifacts"))
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="module")
def demo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model of chapters trained for seconds (or the checkpoint in HELIOSTAT_MEDICAL), with its page in front."""
    import uvicorn

    from heliostat.demo.gallery import build_gallery
    from heliostat.demo.launch import demo_of
    from heliostat.demo.page import THEME
    from heliostat.predict import Predictor
    from heliostat.run import load
    from heliostat.serve.app import build_app
    from heliostat.serve.client import Client
    from heliostat.serve.schema import Served
    from heliostat.train.launch import train

    with pytest.MonkeyPatch.context() as patch, socket.socket() as listener:
        patch.setenv("HELIOSTAT_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        given = os.environ.get("HELIOSTAT_MEDICAL")
        predictor = Predictor.load(Path(given) if given else train(load("medical/tiny")).checkpoint)
        name = predictor.run.name
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(build_app(predictor, Served(name, 1)), log_level="error", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}")
        page = build_gallery(client, {name: demo_of(client, name)})
        _, url, _ = page.launch(
            server_name="127.0.0.1", theme=THEME, prevent_thread_lock=True, quiet=True, share=False, ssr_mode=False
        )
        yield url
        page.close(verbose=False)
        server.should_exit = True
        thread.join(timeout=20)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_words_that_moved_the_answer_are_marked(demo_url: str) -> None:
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1100, "height": 760})
        page.goto(demo_url)
        page.locator("#field-text textarea").fill("Greenstick fracture of the left radius, healing as expected")
        page.locator("#ask").click()
        playwright.expect(page.locator("#facts")).to_contain_text(re.compile(r"version 1 in \d+ ms"), timeout=60_000)
        playwright.expect(page.locator("#notice")).to_contain_text("Not for clinical decisions.")
        playwright.expect(page.locator("#marks")).to_contain_text("fracture", timeout=20_000)
        page.screenshot(path=str(ARTIFACTS / "demo-medical.png"), full_page=True)
        browser.close()
