"""Gangs of real gloo processes without Ray, and 65 rows that no even number of workers can share evenly."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heliostat.data.prepare import prepare
from heliostat.data.prepared import Prepared
from heliostat.run import Run, check

NUM_ROWS = 65
Make = Callable[..., tuple[Run, Prepared]]
Play = Callable[[list[dict[str, Any]]], list[list[dict[str, Any]]]]


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """65 train rows and some for the other splits."""
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "split"])
        for number in range(NUM_ROWS + 21):
            split = "train" if number < NUM_ROWS else "valid" if number < NUM_ROWS + 11 else "test"
            mood = "good lovely" if number % 3 else "bad poor"
            writer.writerow([f"{mood} {'word ' * (number % 7)}{number}", "glad" if number % 3 else "sad", split])
    return path


@pytest.fixture(scope="session")
def run_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home for prepared data and runs."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def make(rows: Path, run_home: Path) -> Make:
    """make(num_workers=2, strategy="fsdp", epochs=3, ...) is a run without dropout in fp32, and its prepared data."""

    def make(num_workers: int = 1, strategy: str = "ddp", encoder: Any = None, **train: Any) -> tuple[Run, Prepared]:
        values = {
            "name": "rows",
            "data": {"adapter": "core.columns", "source": str(rows), "split": {"by": "column", "column": "split"}},
            "encoder": {"type": "core.text", **(encoder or {"preset": "tiny", "vocab_size": 300}), "dropout": 0.0},
            "head": {"type": "core.classification", "dropout": 0.0, "class_weights": "balanced"},
            "train": {
                **{"epochs": 100, "tokens_per_batch": 96, "tokens_per_micro_batch": 24, "precision": "fp32"},
                **{"log_every": 1, "lr": 2e-3, "max_steps": 50, "keep_checkpoints": 100, **train},
            },
            "scaling": {"num_workers": num_workers, "strategy": strategy},
        }
        run = check(values)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HELIOSTAT_HOME", str(run_home))
            return run, prepare(run)

    return make


@pytest.fixture(scope="session")
def play(tmp_path_factory: pytest.TempPathFactory) -> Play:
    """play(scenarios) starts a gang that plays them one after the other; what each rank of each told."""

    def play(scenarios: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        folder = tmp_path_factory.mktemp("gang")
        (folder / "scenarios.json").write_text(json.dumps(scenarios))
        size = max(scenario["world_size"] for scenario in scenarios)
        command = [sys.executable, str(Path(__file__).with_name("member.py"))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        gang = []
        for rank in range(size):
            with (folder / f"log-{rank}").open("w") as log:
                arguments = [*command, str(rank), str(folder / "scenarios.json")]
                gang.append(subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT, env=environment))
        try:
            codes = [member.wait(timeout=500) for member in gang]
        finally:
            for member in gang:
                member.kill()
        said = "\n".join((folder / f"log-{rank}").read_text()[-3000:] for rank in range(size))
        assert codes == [0] * size, said
        return [
            [json.loads((folder / f"told-{number}-{rank}.json").read_text()) for rank in range(scenario["world_size"])]
            for number, scenario in enumerate(scenarios)
        ]

    return play
