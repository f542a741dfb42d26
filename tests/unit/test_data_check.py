"""`heliostat data`: what it shows, what it never shows, and how it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from heliostat.cli.data import app
from heliostat.data.check import inspect, profile
from heliostat.data.sources import open_source
from heliostat.errors import DataError
from heliostat.run import load

RUN = """
name: toy
data: {{adapter: {{type: core.columns, text: {text}, label: label}}, source: "{source}", max_rejected: 0.05}}
encoder: {{type: core.text, preset: tiny}}
head: {{type: core.classification}}
"""
COLOURS = ("red", "green", "blue", "black")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")


def written_run(folder: Path, text: str = "body") -> Path:
    lines = ["body,label,empty"]
    lines += [f"the {COLOURS[n % 4]} dress number {n} fits,{'good' if n % 2 else 'bad'}," for n in range(98)]
    lines += ["too,many,cells,here", ",good,"]
    (folder / "reviews.csv").write_text("\n".join(lines), encoding="utf-8")
    run = folder / "run.yaml"
    run.write_text(RUN.format(text=text, source=folder / "reviews.csv"), encoding="utf-8")
    return run


def checked(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["check", *arguments])


def test_profile_counts_and_shows_no_record(tmp_path: Path) -> None:
    written_run(tmp_path)
    columns, num_records, num_unreadable = profile(open_source(str(tmp_path / "reviews.csv")))
    assert (num_records, num_unreadable) == (100, 1)
    body, label, empty = columns
    assert (body.holds, body.filled, body.distinct, body.shortest, body.longest) == ("string", 98, 98, 27, 30)
    assert (label.filled, label.distinct) == (99, 2)
    assert (empty.holds, empty.filled, empty.distinct, empty.longest) == ("null", 0, 0, None)


def test_check_tells_all_in_numbers(tmp_path: Path) -> None:
    result = checked(str(written_run(tmp_path)))
    assert result.exit_code == 0, result.output
    for words in ("100 records", "data.adapter.text", "body", "label = good", "median", "test in train", "Prepared:"):
        assert words in result.output
    assert "the row has 4 cells where there are 3 columns" in result.output
    assert "text: is missing" in result.output
    assert "fits" not in result.output


def test_check_leaves_the_data_ready_for_training(tmp_path: Path) -> None:
    run = load(str(written_run(tmp_path)))
    found = inspect(run)
    assert found.prepared is not None
    again = inspect(run)
    assert again.prepared == found.prepared
    assert again.stats["splits"]["train"]["examples"] == found.prepared.counts["train"]


def test_check_shows_the_columns_beside_the_mistake(tmp_path: Path) -> None:
    result = checked(str(written_run(tmp_path, text="text")))
    assert isinstance(result.exception, DataError)
    assert "Set data.adapter.text=body" in str(result.exception)
    assert "missing; set data.adapter.text=body" in result.output
    assert "empty" in result.output


def test_check_takes_overrides(tmp_path: Path) -> None:
    result = checked(str(written_run(tmp_path, text="text")), "data.adapter.text=body", "data.limit=50")
    assert result.exit_code == 0, result.output
    prepared = tmp_path / "home" / "prepared"
    (manifest,) = prepared.glob("*/manifest.json")
    assert sum(json.loads(manifest.read_text())["counts"].values()) == 50


def test_fetch_of_what_is_here(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["fetch", str(written_run(tmp_path))])
    assert result.exit_code == 0
    assert "needs no fetching" in result.output


def test_fetch_of_what_is_not_pinned(tmp_path: Path) -> None:
    run = tmp_path / "run.yaml"
    run.write_text(RUN.format(text="text", source="pypi:toy==1.0/a.csv"), encoding="utf-8")
    result = CliRunner().invoke(app, ["fetch", str(run)])
    assert isinstance(result.exception, DataError)
    assert "pinned by its hash" in str(result.exception)


def test_the_verb_itself_loads_nothing_heavy() -> None:
    import subprocess

    code = "import sys, heliostat.cli.data; print(sorted({'ray', 'torch', 'pyarrow', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
