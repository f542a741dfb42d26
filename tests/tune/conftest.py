"""A toy that learns within seconds, and a head that fails where it is told to."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
        fault: Literal["none", "raise", "die"] = "none"

    samples = ({"text": "good a b"}, {"text": "bad c d"})

    def counts(self, batch: Batch) -> dict[str, float]:
        if self.config.fault == "raise":
            raise ValueError("planted")
        if self.config.fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
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
def toy(planted_plugin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Plain values of a run of 3 epochs over 120 rows, in a home of its own."""
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))
    dice = random.Random(3)
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(120):
            label = dice.choice(["good", "bad"])
            words = [label if dice.random() < 0.3 else dice.choice("abcdefgh") for _ in range(dice.randint(3, 20))]
            writer.writerow([f"{' '.join(words)} {number}", label])
    return {
        "name": "toy",
        "data": {
            "adapter": "core.columns",
            "source": str(tmp_path / "rows.csv"),
            "split": {"valid": 0.2, "test": 0.1},
        },
        "encoder": {"type": "core.text", "preset": "tiny", "vocab_size": 300},
        "head": {"type": "planted.head"},
        "train": {"epochs": 3, "tokens_per_batch": 160, "lr": 1e-2, "trackers": []},
    }
