"""What a person sees of a sweep: columns that find room, a line a trial in a log, a page for odd sweeps."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from heliostat.cli import trials as told
from heliostat.tune.driver import Sweep
from heliostat.tune.page import write_page
from heliostat.tune.plan import planned
from heliostat.tune.records import Aim, Point, Trial
from heliostat.tune.watcher import View

LONG = {"train.lr": 1e-3, "train.optimizer": {"type": "muon"}, "head.dropout": 0.1, "encoder.dropout": 0.2}


def ended(number: int, score: float, **changes: Any) -> Trial:
    curve = (Point(1.0, 0.5, 5, score / 2), Point(2.0, 1.0, 10, score))
    found = Trial(number, LONG, "finished", curve=curve, scores={"valid/macro_f1": score})
    return replace(found, **changes)


def printed(what: Any, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(what)
    return out.getvalue()


def test_names_are_as_short_as_tells_them_apart() -> None:
    assert list(told.short_names(list(LONG)).values()) == ["lr", "optimizer", "head.dropout", "encoder.dropout"]
    assert told.short_names(["train.lr", "train.optimizer.lr"]) == {
        "train.lr": "train.lr", "train.optimizer.lr": "optimizer.lr"
    }  # fmt: skip


def test_a_narrow_table_names_what_it_leaves_out_and_cuts_nothing() -> None:
    rows = [ended(0, 0.5, is_default=True), ended(1, 0.75)]
    wide = printed(told.trial_table(rows, [Aim("macro_f1")], width=140, best=rows[1]), 140)
    assert '{"type": "muon"}' in wide
    assert "encoder.dropout" in wide.splitlines()[0]
    narrow = printed(told.trial_table(rows, [Aim("macro_f1")], width=60, best=rows[1]), 60)
    assert "0.7500" in narrow
    assert "…" not in narrow
    assert "* the run as it stood; not shown:" in narrow
    assert "encoder.dropout" in narrow.split("not shown:")[1]


def test_a_log_gets_one_line_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(told, "console", Console(file=out, width=80))
    with told.told() as watcher:
        failed = Trial(1, {"train.lr": 2e-3}, "failed", reason="ValueError: [bold] is no colour")
        for trials in [(Trial(0, LONG),), (ended(0, 0.5, is_default=True),), (ended(0, 0.5, is_default=True), failed)]:
            watcher.update(View(trials, 4, 2, "macro_f1", None))
    first, second = out.getvalue().splitlines()
    assert first.startswith(
        "1/4 trial 0 (the run as it stood) finished after 2 epochs: valid/macro_f1 0.5000  lr=0.001"
    )
    assert second == "2/4 trial 1 failed: ValueError: [bold] is no colour  lr=0.002"


RUN: dict[str, Any] = {
    "name": "toy",
    "data": {"adapter": "core.columns", "source": "rows.csv"},
    "encoder": {"type": "core.text", "preset": "tiny"},
    "head": "core.classification",
}


def sweep_of(folder: Path, space: dict[str, Any], metrics: tuple[str, ...]) -> Sweep:
    plan = planned({**RUN, "tune": {"space": space, "metric": list(metrics)}})
    values = [{"train.lr": 10.0 ** -(2 + number / 4)} for number in range(8)]
    costs = {"parameters": 1e6}
    trials = [ended(number, 0.5 + number / 50, values=each, costs=costs) for number, each in enumerate(values)]
    trials.append(Trial(8, {"train.lr": 1e-3}, "failed", reason="<b>ValueError</b>"))
    aims = tuple(Aim(name, name == "parameters") for name in metrics)
    return Sweep("toy-1", folder, plan, metrics[0], tuple(trials), trials[7], folder, folder, aims=aims)


@pytest.mark.parametrize("metrics", [("macro_f1",), ("macro_f1", "parameters")])
def test_a_page_of_one_setting_with_a_failed_trial(metrics: tuple[str, ...], tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, {"train.lr": "log(1e-4,1e-2)"}, metrics)
    page = write_page(sweep).read_text(encoding="utf-8")
    assert "The run as it stood is not among the trials" in page
    assert "&lt;b&gt;ValueError" in page
    assert "<b>ValueError" not in page
    assert "8 finished, 1 failed" in page
    assert ("What no other beats" in page) == (len(metrics) > 1)
    assert "http://" not in page
    assert "<script" not in page
