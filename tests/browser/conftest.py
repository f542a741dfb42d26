"""What the pages share: a model trained for seconds (or one that is given), served, its page open in a Chromium."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARTIFACTS = Path(os.environ.get("HELIOSTAT_ARTIFACTS", "artifacts"))
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
OURS = ("http://127.0.0.1", "http://localhost", "data:", "blob:")


@dataclass
class Visit:
    """A page of a demo, open in a Chromium."""

    page: Any
    asked: list[str]
    """Every address that the page loaded from."""
    tab: str = ""
    """What stands before each id of the model whose tab is open in the gallery."""

    def fill(self, field: str, words: str) -> None:
        """Write into a field of the form."""
        self.page.locator(f"#{self.tab}field-{field} :is(textarea, input)").fill(words)

    def value(self, field: str) -> str:
        """What stands in a field of the form."""
        return str(self.page.locator(f"#{self.tab}field-{field} :is(textarea, input)").input_value())

    def pick(self, sample: str) -> None:
        """Click on a sample, which fills the form and asks, and wait for the answer."""
        self.page.locator(f"#{self.tab}samples").get_by_text(sample).click()
        self._answered()

    def ask(self) -> None:
        """Click on the button and wait for the answer."""
        self.page.locator(f"#{self.tab}ask").click()
        self._answered()

    def refused(self, why: str) -> None:
        """Click on the button and wait for the sentence that pops up."""
        self.page.locator(f"#{self.tab}ask").click()
        self.see(".toast-wrap", why, seconds=60)
        self.see(f"#{self.tab}facts", why)

    def changes(self, place: str, before: str) -> None:
        """Wait until a place of the page no longer holds the words that stood there."""
        sync_api.expect(self.page.locator(place).first).not_to_have_text(before, timeout=60_000)

    def see(self, place: str, words: str | re.Pattern[str], seconds: float = 20) -> None:
        """Wait until a place of the page holds these words."""
        sync_api.expect(self.page.locator(place).first).to_contain_text(words, timeout=1000 * seconds)

    def keep(self, name: str) -> None:
        """Keep a picture of the page, and see that nothing on it is broken and nothing came from elsewhere."""
        text = self.page.locator("body").inner_text()
        assert not re.search(r"\b(undefined|NaN|null|None)\b|\[object Object\]", text), text
        assert [url for url in self.asked if not url.startswith(OURS)] == []
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(ARTIFACTS / f"demo-{name}.png"), full_page=True)

    def _answered(self) -> None:
        self.see(f"#{self.tab}facts", re.compile(r"version \d+ in \d+ ms"), seconds=60)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELIOSTAT_HOME", str(folder))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        yield folder


@pytest.fixture(scope="session")
def demo(home: Path) -> Iterator[Callable[[str], str]]:
    """demo("finance") is the address of the page of the model that `finance/tiny` trains, or of one that is given.

    HELIOSTAT_DEMO_FINANCE names the folder of a checkpoint to be shown instead.
    """
    from heliostat.predict import Predictor
    from heliostat.run import load
    from heliostat.train.launch import train

    pages: dict[str, str] = {}
    with ExitStack() as ending:

        def demo(domain: str) -> str:
            if domain not in pages:
                given = os.environ.get(f"HELIOSTAT_DEMO_{domain.upper()}")
                predictor = Predictor.load(Path(given) if given else train(load(f"{domain}/tiny")).checkpoint)
                url = ending.enter_context(served(predictor))
                pages[domain] = ending.enter_context(shown(url, predictor.run.name))
            return pages[domain]

        yield demo


@contextmanager
def served(predictor: Any) -> Iterator[str]:
    """A predictor behind a real server on a free port."""
    from heliostat.serve.app import build_app
    from heliostat.serve.schema import Served
    from heliostat.testing.serving import listening

    app = build_app(predictor, Served(predictor.run.name, 1))
    with listening(app) as url:
        yield url


@pytest.fixture(scope="session")
def page_of() -> Callable[..., Any]:
    """page_of(url, name) is a context with the page of a model that is served already."""
    return shown


@contextmanager
def shown(url: str, name: str, token: str | None = None) -> Iterator[str]:
    """The page of a served model, as `heliostat demo` opens it."""
    from heliostat.demo.launch import opened
    from heliostat.serve.client import Client

    with Client(url, token=token) as client, opened(client, name) as page:
        yield page


@pytest.fixture
def visit() -> Iterator[Callable[[str], Visit]]:
    """visit(url) opens a page."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    with ExitStack() as ending:

        def visit(url: str) -> Visit:
            player = ending.enter_context(sync_api.sync_playwright())
            browser = player.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            ending.callback(browser.close)
            found = Visit(browser.new_page(viewport={"width": 1180, "height": 700}), [])
            found.page.on("request", lambda request: found.asked.append(request.url))
            found.page.goto(url)
            return found

        yield visit
