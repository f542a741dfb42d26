from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from heliostat import registry
from heliostat.errors import PluginError
from heliostat.plugin import Component, DataAdapter, Registry, Settings, TaskHead

GOOD = """
from heliostat.plugin import DataAdapter, Settings

class Wines(DataAdapter):
    class Config(Settings):
        best: int = 90

    def examples(self, rows):
        yield from rows

def register(registry):
    registry.add("wines", Wines)
"""


def states() -> dict[str, registry.PluginState]:
    return {state.name: state for state in registry.survey()}


def test_a_plugin_comes_in_by_its_entry_point(install: Callable[..., Path]) -> None:
    install("wine", GOOD)
    assert registry.find("wine.wines", DataAdapter).__name__ == "Wines"  # type: ignore[type-abstract]
    state = states()["wine"]
    assert state.components == {"wine.wines": "adapter"}
    assert (state.version, state.problem) == ("0.0.1", "")


BROKEN = {
    "raises": ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
    "exits": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "dies": ("import os; os._exit(7)", "its import ended the process (exit code 7)"),
    "asks": ("input('?')", "EOFError"),
    "empty": ("", "AttributeError"),
    "wrong": ("def register(registry):\n    registry.add('Not A Name', object)", "lower-case letters"),
    "taken": (GOOD + "    registry.add('wines', Wines)", "registered twice"),
}


def test_a_broken_plugin_is_listed_with_its_reason_and_stops_nothing_else(install: Callable[..., Path]) -> None:
    for name, (code, _) in BROKEN.items():
        install(name, code)
    install("wine", GOOD)
    found = states()
    for name, (_, reason) in BROKEN.items():
        assert reason in found[name].problem, name
        assert found[name].components == {}
    assert found["wine"].components == {"wine.wines": "adapter"}
    assert found["core"].components["core.text"] == "encoder"
    assert "wine.wines" in registry.installed(DataAdapter)  # type: ignore[type-abstract]


@pytest.mark.parametrize(
    "code",
    [
        "import time; time.sleep(600)",
        "import subprocess, time; subprocess.Popen(['sleep', '600']); time.sleep(600)",
        "import time, signal; signal.signal(signal.SIGALRM, signal.SIG_IGN); time.sleep(600)",
    ],
)
def test_a_hanging_plugin_is_listed_with_its_reason(
    code: str, install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "IMPORT_TIMEOUT_S", 1)
    install("hangs", code)
    assert states()["hangs"].problem == "its import took over 1 s"


def test_naming_one_component_imports_no_neighbour(install: Callable[..., Path]) -> None:
    install("wine", GOOD)
    install("neighbour", "raise RuntimeError('I am not to be imported')")
    registry.find("wine.wines", Component)
    assert "heliostat_neighbour" not in sys.modules


def test_a_hanging_import_ends_in_this_process_too(
    install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "IMPORT_TIMEOUT_S", 1)
    install("hangs", "import time\ntime.sleep(600)")
    started = time.monotonic()
    with pytest.raises(PluginError, match="'hangs' does not load: its import took over 1 s"):
        registry.load_plugin("hangs")
    assert time.monotonic() - started < 60


def test_two_distributions_may_not_share_a_name(install: Callable[..., Path]) -> None:
    package = install("wine", GOOD)
    other = package.parent / "other_wine-2.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other-wine\nVersion: 2.0\n")
    (other / "entry_points.txt").write_text("[heliostat.plugins]\nwine = heliostat_wine:register\n")
    with pytest.raises(PluginError, match="two distributions"):
        registry.load_plugin("wine")
    assert "two distributions" in states()["wine"].problem


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("wine", "'wine' is no address: it takes the form 'plugin.component', as in 'core.text'."),
        ("wine.", "no address"),
        ("wien.wines", "no plugin is named 'wien'. Did you mean 'wine'?"),
        ("zzzzz.wines", "no plugin is named 'zzzzz'. Installed:"),
        ("wine.wine", "the plugin 'wine' has no adapter 'wine'. Did you mean 'wine.wines'?"),
        ("wine.qqq", "the plugin 'wine' has no adapter 'qqq'. Its adapters: wine.wines."),
        ("core.text", "'core.text' is an encoder, and an adapter is needed here."),
    ],
)
def test_an_address_that_leads_nowhere_says_what_was_meant(
    install: Callable[..., Path], address: str, sentence: str
) -> None:
    install("wine", GOOD)
    with pytest.raises(PluginError) as caught:
        registry.find(address, DataAdapter)  # type: ignore[type-abstract]
    assert sentence in str(caught.value)


class LooseConfig(TaskHead):
    class Config:  # type: ignore[assignment]
        pass


class TakenKey(TaskHead):
    class Config(Settings):
        type: str = ""


class Unfinished(DataAdapter):
    pass


@pytest.mark.parametrize(
    ("component", "sentence"),
    [
        (LooseConfig, "must derive from Settings"),
        (TakenKey, "no field 'type'"),
        (Unfinished, "Unfinished lacks examples()"),
        (7, "is not a component class"),
    ],
)
def test_what_is_no_component_is_refused_at_the_door(component: type, sentence: str) -> None:
    with pytest.raises(PluginError, match=f"mine.thing: .*{sentence}".replace("(", r"\(").replace(")", r"\)")):
        Registry("mine").add("thing", component)


def test_the_package_folder_is_found_without_importing(install: Callable[..., Path]) -> None:
    package = install("boom", "raise RuntimeError")
    assert registry.package_folder("boom") == package
    assert registry.package_folder("there_is_none") is None


def test_describing_components_imports_nothing_heavy() -> None:
    code = (
        "import sys, heliostat.plugin, heliostat.run, heliostat.registry as r\n"
        "r.load_plugin('core')\n"
        "heavy = ('torch', 'ray', 'transformers', 'pandas', 'pyarrow', 'sklearn', 'gradio', 'matplotlib', 'datasets')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.strip() == "[]"
