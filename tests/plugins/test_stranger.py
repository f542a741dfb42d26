"""A stranger's package with an encoder, a task, metrics, a baseline and a page of its own: it passes as it comes."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from heliostat.registry import survey
from heliostat.run import load
from heliostat.testing import check_plugin


def test_it_knows_nothing_of_the_platform_but_the_door(stranger: Path) -> None:
    tree = ast.parse((stranger / "__init__.py").read_text(encoding="utf-8"))
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {each.name for node in ast.walk(tree) if isinstance(node, ast.Import) for each in node.names}
    assert {name for name in imported if name.startswith("heliostat")} == {"heliostat.plugin"}
    run = load("wear/tiny")
    assert {address.partition(".")[0] for address in (run.data.adapter.type, run.encoder.type, run.head.type)} == {
        "wear"
    }
    state = next(state for state in survey() if state.name == "wear")
    assert sorted(state.components.values()) == ["adapter", "baseline", "encoder", "head"]


def test_it_keeps_every_promise(stranger: Path) -> None:
    results = {result.name: result for result in check_plugin("wear")}
    assert len(results) == 9
    assert all(result.passed for result in results.values())
    said = results["it is evaluated beside its baselines"].said
    assert "kappa 0." in said
    assert "baselines: wear.loudness" in said


def test_one_command_proves_it(stranger: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "heliostat", "check-plugin", "wear"], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("kept ") == 9
    assert "\nbroken" not in f"\n{done.stdout}"


def test_its_own_metrics_baseline_and_chart_stand_in_the_report(
    stranger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
