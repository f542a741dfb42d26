"""The command line answers at once: heavy libraries come in when a verb needs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from heliostat.run import Run, check
from heliostat.yaml12 import parse

HEAVY = {"torch", "ray", "transformers", "pandas", "pyarrow", "sklearn", "gradio", "matplotlib", "datasets", "scipy"}

PLUGIN = """
from heliostat.plugin import Classification, DataAdapter

class Rows(DataAdapter):
    def examples(self, rows):
        yield from rows

class Mood(Classification):
    samples = ({"text": "fine"},)

def register(registry):
    registry.add("rows", Rows)
    registry.add("mood", Mood)
"""

RUN = """
name: mood
data: {adapter: {type: mood.rows}, source: moods.csv}
encoder: {type: core.text, preset: tiny}
head: {type: mood.mood}
train: {lr: 1e-3}
"""


def heliostat(*args: str, columns: int = 200) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """The finished command, and the heavy libraries that it imported."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "heliostat", *args],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": str(columns), "NO_COLOR": "1"},
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    told = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("import time:"))
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout, told), imported & HEAVY


@pytest.fixture
def mood(install: Callable[..., Path]) -> Path:
    return install("mood", PLUGIN, {"default": RUN})


def test_help_imports_nothing_heavy() -> None:
    done, heavy = heliostat("--help")
    assert done.returncode == 0
    assert heavy == set()
    for verb in ("train", "plugins", "show", "config-schema", "new-plugin", "check-plugin"):
        assert re.search(rf"\b{verb}\b", done.stdout)


def test_show_tells_both_mistakes_with_a_way_out_and_exits_2(mood: Path) -> None:
    done, heavy = heliostat("show", "mood/default", "train.epohcs=3", "train.lr=-1")
    assert done.returncode == 2
    assert heavy == set()
    assert "2 mistakes" in done.stderr
    assert "train.epohcs: no such setting. Did you mean 'epochs'?" in done.stderr
    assert "train.lr: should be greater than 0; found -1. Its default is 0.0005." in done.stderr
    assert "Traceback" not in done.stderr


def test_show_prints_a_run_that_reads_back(mood: Path) -> None:
    done, heavy = heliostat("show", "mood/default", "train.epochs=2", "data.limit=10")
    assert done.returncode == 0, done.stderr
    assert heavy == set()
    run = check(parse(done.stdout, ""))
    assert (run.train.epochs, run.train.lr, run.data.limit) == (2, 1e-3, 10)
    assert re.search(r"epochs: 2\.0 +# command line", done.stdout)
    assert re.search(r"lr: 0\.001 +# default\.yaml", done.stdout)


def test_a_misspelt_run_is_answered_with_a_guess(mood: Path) -> None:
    done, _ = heliostat("show", "mood/defalt")
    assert done.returncode == 2
    assert "Did you mean 'mood/default'?" in done.stderr


def test_plugins_lists_the_sound_and_the_broken(mood: Path, install: Callable[..., Path]) -> None:
    install("boom", "raise RuntimeError('out of [order]')")
    done, heavy = heliostat("plugins")
    assert done.returncode == 0
    assert heavy == set()
    lines = done.stdout.splitlines()
    assert any(line.startswith("boom") and "broken: RuntimeError: out of [order]" in line for line in lines)
    assert any(line.startswith("mood") and "adapter mood.rows" in line and "mood/default" in line for line in lines)
    assert "encoder core.text" in done.stdout


def test_config_schema_accepts_what_the_run_accepts(mood: Path, tmp_path: Path) -> None:
    out = tmp_path / "schema.json"
    done, heavy = heliostat("config-schema", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert heavy == set()
    schema = json.loads(out.read_text())
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert set(schema["properties"]) == set(Run.model_fields)
    assert "mood.mood" in schema["$defs"]["HeadSpec"]["anyOf"][0]["enum"]
    assert json.loads(heliostat("config-schema")[0].stdout) == schema
