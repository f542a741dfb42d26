"""A toy that learns within seconds, and a head that fails where it is told to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from heliostat.testing.distribution import on_path, write_dist_info

_PLUGIN = '''
"""A head that raises, or kills its process, when it is told to."""

from __future__ import annotations

import os
import signal
from typing import Literal

from heliostat.plugin import Batch, Classification, Registry


class Planted(Classification):
    """A classification with a fault."""

    class Config(Classification.Config):
        fault: Literal["none", "raise", "die", "full"] = "none"

    samples = ({"text": "good a b"}, {"text": "bad c d"})

    def counts(self, batch: Batch) -> dict[str, float]:
        if self.config.fault == "raise":
            raise ValueError("planted")
        if self.config.fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.config.fault == "full":
            with open("/dev/full", "wb", buffering=0) as file:
                file.write(b"a checkpoint")
        return super().counts(batch)


def register(registry: Registry) -> None:
    registry.add("head", Planted)
'''


@pytest.fixture(scope="session")
def planted_plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The plugin `planted`, for this process and those it starts."""
    site = tmp_path_factory.mktemp("planted_site")
    package = site / "heliostat_planted"
    package.mkdir()
    (package / "__init__.py").write_text(_PLUGIN, encoding="utf-8")
    write_dist_info(site, "planted", "heliostat_planted:register")
    with on_path(site):
        yield


@pytest.fixture
def toy(planted_plugin: None, toy_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Plain values of a run of 3 epochs over 120 rows, in a home of its own."""
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))
    return {
        "name": "toy",
        "data": {
            "adapter": "core.columns",
            "source": str(toy_rows),
            "split": {"valid": 0.2, "test": 0.1},
        },
        "encoder": {"type": "core.text", "preset": "tiny", "vocab_size": 300},
        "head": {"type": "planted.head"},
        "train": {"epochs": 3, "tokens_per_batch": 160, "lr": 1e-2, "trackers": []},
    }


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    """No test leaves a process behind."""
    before = set(psutil.Process().children(recursive=True))
    yield
    assert not set(psutil.Process().children(recursive=True)) - before


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """start(values, *args) is a driver of a process of its own, which says what it says in `driver.log`."""

    def start(values: dict[str, Any], *args: str) -> subprocess.Popen[bytes]:
        file = tmp_path / "run.yaml"
        file.write_text(json.dumps(values))
        command = [sys.executable, "-m", "heliostat", "tune", *(args or [str(file)])]
        with (tmp_path / "driver.log").open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    return start


@pytest.fixture
def assert_gone() -> Callable[[list[psutil.Process]], None]:
    """assert_gone(processes) fails when one of them still lives after ten seconds."""

    def assert_gone(processes: list[psutil.Process]) -> None:
        _, alive = psutil.wait_procs(processes, timeout=10)
        assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]

    return assert_gone
