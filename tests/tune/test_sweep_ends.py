"""What a sweep ends with: a front, the gain on test, a model that learned from train and valid, a page."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from heliostat.cli.sweep import tell_sweep
from heliostat.data.prepared import Prepared
from heliostat.models.store import ModelStore
from heliostat.run import check, load
from heliostat.tune.costs import measured


def swept(toy: dict[str, Any], settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What `heliostat tune` prints into a pipe."""
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps({**toy, "tune": settings}))
    tell_sweep(str(file), [], trials=None, resume=None, store=True)
    return capsys.readouterr().out


def test_a_front_a_gain_and_a_model_of_train_and_valid(
    toy: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    poor = {**toy, "train": {**toy["train"], "lr": 1e-9}}
    space = {"train.lr": "choice(1e-9,1e-2)", "encoder.max_tokens": "choice(64,256)"}
    metric = ["loss", "parameters", "size_mb"]
    told = swept(poor, {"space": space, "search": "grid", "metric": metric, "refit": True}, tmp_path, capsys)

    (folder,) = Path(os.environ["HELIOSTAT_HOME"]).glob("sweeps/*")
    table = json.loads((folder / "trials.json").read_text())
    trials = table["trials"]
    assert "4/4 trial" in told
    assert [sorted(trial["costs"]) for trial in trials] == [sorted(metric[1:])] * 4
    assert all(value > 0 for trial in trials for value in trial["costs"].values())
    small, large = ([t for t in trials if t["values"]["encoder.max_tokens"] == size] for size in (64, 256))
    assert max(t["costs"]["parameters"] for t in small) < min(t["costs"]["parameters"] for t in large)
    best = next(trial for trial in trials if trial["number"] == table["best"])
    assert best["values"]["train.lr"] == 1e-2
    fronts = {int(path.stem): load(str(path)) for path in (folder / "front").glob("*.yaml")}
    assert fronts[best["number"]] == load(str(folder / "best.yaml"))
    assert "trials that no other beats in everything" in told
    assert "What no other beats" in (folder / "sweep.html").read_text()

    compared = json.loads((folder / "compare" / "compare.json").read_text())
    assert (compared["first"], compared["second"]) == (f"trial {best['number']}", "as it was")
    assert compared["rows_name"] == "test"
    assert "examples, which chose nothing, 95 % intervals" in told
    checkpoint = next((folder / "trials").glob(f"*-{best['number']:04}/checkpoints/step-*"))
    prepared = Prepared.open(Path(os.environ["HELIOSTAT_HOME"]) / "prepared" / (folder / "prepared").read_text())
    assert 0 < measured(checkpoint, ["latency_ms"], prepared)["latency_ms"] < 1e4
    check_refit(folder.name, max(best["curve"], key=lambda point: (point["score"], -point["step"]))["step"])


def check_refit(sweep: str, step: int) -> None:
    """The stored model saw both splits, made as many updates as the best trial, and was chosen by nothing."""
    (version,) = ModelStore().list("toy")
    assert version.metadata["run_id"] == f"{sweep}-refit"
    assert version.metadata["lineage"][-1]["steps"] == step
    assert set(version.metadata["scores"]) >= {"accuracy", "macro_f1"}
    folder = Path(os.environ["HELIOSTAT_HOME"]) / "runs" / f"{sweep}-refit"
    run = check(json.loads((folder / "run.json").read_text()))
    assert (run.train.learns_from, run.train.max_steps) == ("train+valid", step)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert not [row for row in rows if any(name.startswith("valid/") for name in row)]
    outcome = json.loads((folder / "outcome.json").read_text())
    assert outcome["best"][0] == outcome["step"] == step


def test_without_a_test_split_the_lead_on_valid_is_told_with_its_luck(
    toy: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    poor = {**toy, "train": {**toy["train"], "lr": 1e-9}}
    poor["data"] = {**toy["data"], "split": {"valid": 0.2, "test": 0}}
    told = swept(poor, {"space": {"train.lr": "choice(1e-9,1e-2)"}, "search": "grid"}, tmp_path, capsys)
    assert "chosen among 2 on these rows, so partly luck" in told
    assert "There is no test split" in told
    (version,) = ModelStore().list("toy")
    assert all(name.startswith("valid/") for name in version.metadata["scores"])
