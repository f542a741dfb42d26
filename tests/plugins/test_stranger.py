"""A stranger's package with an encoder, a task, metrics, a baseline and a page of its own: it passes as it comes."""

from __future__ import annotations

import ast
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from heliostat.registry import survey
from heliostat.run import load
from heliostat.testing import check_plugin, on_path, write_dist_info

CODE = Path(__file__).parent / "components" / "wear.py"

TINY = """
name: wear
data:
  adapter: {type: wear.log}
  source: package:heliostat_wear/log.csv
  split: {by: hash, key: [machine], valid: 0.2, test: 0.2}
encoder: {type: wear.waves, dim: 8}
head: {type: wear.grade}
train: {epochs: 20, lr: 2e-2, tokens_per_batch: 400, precision: fp32}
evaluate: {resamples: 50}
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package in a folder of its own: one module, a run, a log of 160 machines that shake more as they wear."""
    site = tmp_path_factory.mktemp("stranger")
    folder = site / "heliostat_wear"
    (folder / "runs").mkdir(parents=True)
    (folder / "__init__.py").write_text(CODE.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "runs" / "tiny.yaml").write_text(TINY, encoding="utf-8")
    dice = random.Random(5)
    lines = ["machine,readings,grade"]
    for machine in range(160):
        grade = machine % 4
        readings = [dice.gauss(0.0, 0.3 + 0.5 * grade) for _ in range(dice.randint(4, 30))]
        lines.append(f"m{machine},{' '.join(f'{each:.2f}' for each in readings)},{grade}")
    (folder / "log.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_dist_info(site, "wear", "heliostat_wear:register")
    with on_path(site):
        yield folder


def test_it_knows_nothing_of_the_platform_but_the_door(package: Path) -> None:
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {each.name for node in ast.walk(tree) if isinstance(node, ast.Import) for each in node.names}
    assert {name for name in imported if name.startswith("heliostat")} == {"heliostat.plugin"}
    run = load("wear/tiny")
    assert {address.partition(".")[0] for address in (run.data.adapter.type, run.encoder.type, run.head.type)} == {
        "wear"
    }
    state = next(state for state in survey() if state.name == "wear")
    assert sorted(state.components.values()) == ["adapter", "baseline", "encoder", "head"]


def test_it_keeps_every_promise(package: Path) -> None:
    results = {result.name: result for result in check_plugin("wear")}
    assert len(results) == 9
    assert all(result.passed for result in results.values())
    said = results["it is evaluated beside its baselines"].said
    assert "kappa 0." in said
    assert "baselines: wear.loudness" in said


def test_one_command_proves_it(package: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "heliostat", "check-plugin", "wear"], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("kept ") == 9
    assert "\nbroken" not in f"\n{done.stdout}"


def test_its_own_metrics_baseline_and_chart_stand_in_the_report(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from heliostat.data.prepared import Prepared
    from heliostat.evaluate import evaluate
    from heliostat.predict import Predictor
    from heliostat.train.launch import train

    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    result = train(load("wear/tiny", ["data.engine=local"]))
    report = evaluate(Predictor.load(result.checkpoint), Prepared.open(result.prepared), tmp_path / "report")
    assert set(report.scores) == {"kappa", "far_off_error"}
    assert set(report.baselines) == {"wear.loudness"}
    assert 0.3 < report.scores["kappa"].value <= 1.0
    assert report.scores["kappa"].low < report.scores["kappa"].high
    page = report.html.read_text(encoding="utf-8")
    assert "How often each grade is given" in page
    journal = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert any("valid/kappa" in row for row in journal)
