"""The plugin of plugins/README.md and of `heliostat new-plugin` is whole and keeps its promises."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heliostat.cli import new_plugin
from heliostat.errors import PluginError
from heliostat.registry import load_plugin, survey
from heliostat.run import load
from heliostat.testing import check_plugin, on_path, write_dist_info

README = Path(__file__).parents[2] / "plugins" / "README.md"
MOST_LINES = 60


def blocks() -> dict[str, str]:
    """The fenced blocks of the page that stand below a file's name."""
    found = re.findall(
        r"^`([^`\n]+)`\n\n```\w+\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return dict(found)


def test_the_plugin_of_the_page_is_the_one_that_new_plugin_writes() -> None:
    assert blocks() == new_plugin.skeleton("weather")


def test_the_plugin_of_the_page_is_short() -> None:
    written = [text for path, text in blocks().items() if not path.endswith(".csv")]
    assert len(written) == 3
    assert sum(text.count("\n") for text in written) < MOST_LINES


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page's plugin, taken out of it and installed by pip, without network."""
    source, site = tmp_path_factory.mktemp("weather"), tmp_path_factory.mktemp("site")
    for path, text in blocks().items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(text, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True, timeout=300)
    with on_path(site):
        yield site


def test_the_plugin_of_the_page_installs_with_all_its_files(installed: Path) -> None:
    state = next(state for state in survey() if state.name == "weather")
    assert state.components == {"weather.texts": "adapter", "weather.label": "head"}
    assert (state.distribution, state.version, state.problem) == ("heliostat-weather", "0.1.0", "")
    assert load("weather/tiny").head.type == "weather.label"
    assert (installed / "heliostat_weather" / "texts.csv").is_file()
    assert "torch" not in load_plugin("weather").components["texts"].__module__


def test_the_plugin_of_the_page_keeps_every_promise(installed: Path) -> None:
    results = check_plugin("weather")
    assert len(results) == 9
    assert all(result.passed and result.said for result in results)


def test_new_plugin_writes_nothing_over(tmp_path: Path) -> None:
    new_plugin.command("rain_fall", tmp_path)
    written = tmp_path / "rain_fall" / "heliostat_rain_fall" / "__init__.py"
    assert written.read_text().startswith('"""Rain fall: a text in, its label out."""')
    assert "name: rain-fall" in (written.parent / "runs" / "tiny.yaml").read_text()
    written.write_text("mine")
    with pytest.raises(PluginError, match="is there already"):
        new_plugin.command("rain_fall", tmp_path)
    assert written.read_text() == "mine"


@pytest.mark.parametrize("name", ["../up", "Weather", "a-b", "", "1a", "a" * 60, "core"])
def test_new_plugin_refuses_what_is_no_name_or_taken(name: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"no plugin name|installed already"):
        new_plugin.command(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_check_plugin_tells_which_promise_is_broken(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from heliostat.cli import check_plugin as verb

    head = load_plugin("weather").components["label"]
    monkeypatch.setattr(head, "counts", lambda self, batch: {"another": 1.0})
    with pytest.raises(
        AssertionError, match=r"loss\(\) gives the terms \['loss'\] and counts\(\) \['another'\]"
    ) as caught:
        check_plugin("weather")
    assert "(7 further checks were not reached)" in str(caught.value)
    import typer

    app = typer.Typer()
    app.command()(verb.command)
    told = CliRunner().invoke(app, ["weather"])
    assert told.exit_code == 1
    assert "kept   settings read back as they were" in told.output
    assert "broken raw records become a loss with gradients" in told.output


@pytest.mark.parametrize("task", [task for task in new_plugin.Task if task != "classification"])
def test_a_new_plugin_of_each_task_keeps_every_promise(task: new_plugin.Task, tmp_path: Path) -> None:
    name = f"fresh_{task}"
    new_plugin.command(name, tmp_path, task)
    site = tmp_path / name
    write_dist_info(site, name, f"heliostat_{name}:register")
    with on_path(site):
        results = check_plugin(name)
    assert [result.name for result in results if not result.passed] == []
    assert len(results) == 9
