"""The page of a sweep in a browser: nothing runs over its edge, nothing is fetched, nothing is refused."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heliostat.run import TuneSettings, laid
from heliostat.tune.driver import Sweep
from heliostat.tune.objectives import chosen
from heliostat.tune.page import write_page
from heliostat.tune.plan import planned
from heliostat.tune.records import Aim, Point, Trial
from heliostat.tune.study import Study

ARTIFACTS = Path(os.environ.get("HELIOSTAT_ARTIFACTS", "artifacts"))

LONG = {
    "train.optimizer": "choice({type: muon, lr: 0.02},adamw)",
    "train.layer_decay": "uniform(0.6,1)",
    "encoder.dropout": "choice(0.0,0.1)",
}


def sweep_of(folder: Path, space: dict[str, Any], metrics: tuple[str, ...]) -> Sweep:
    """Twenty trials as a sweep records them: finished, stopped and failed ones."""
    values = laid("sentiment/sweep")[1]
    section = {**values["tune"], "space": {**values["tune"]["space"], **space}, "metric": list(metrics)}
    plan, trials = planned({**values, "tune": section}), list[Trial]()
    study = Study(plan.space, TuneSettings(search="random"), epochs=3.0)
    points = [study.propose() or {} for _ in range(20)]
    for number, point in enumerate(points):
        end = 9 if len(metrics) > 1 or number % 3 else 2
        good = 0.7 - 0.1 * abs(math.log10(point["train.lr"]) + 3)
        curve = tuple(Point(part / 3, part / 9, part, good * (1 - math.exp(-part / 3))) for part in range(1, end + 1))
        scores = {"valid/macro_f1": curve[-1].score}
        trial = Trial(number, point, "finished", number == 0, curve, scores, end, 3.0, costs={"size_mb": 2.0 + number})
        if end < 9:
            trial = replace(trial, state="stopped", reason="asha: others did better after 0.667 epochs")
        trials.append(trial)
    trials.append(Trial(20, points[0], "failed", reason="TrainError: " + "the gradient is not finite at step 3 " * 5))
    aims = tuple(Aim(name, name == "size_mb") for name in metrics)
    best = chosen(trials, aims)
    assert best
    return Sweep("sentiment-1", folder, plan, metrics[0], tuple(trials), best, folder, folder, aims=aims)


@pytest.mark.parametrize("width", [420, 1180])
def test_a_sweep_fits_its_window(width: int, visit: Callable[[str], Any], tmp_path: Path) -> None:
    told: list[str] = []
    seen = visit("about:blank")
    seen.page.on("console", lambda message: told.append(message.text))
    seen.page.set_viewport_size({"width": width, "height": 900})
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    for name, space, metrics in (("one", {}, ("macro_f1",)), ("several", LONG, ("macro_f1", "size_mb"))):
        folder = tmp_path / name
        folder.mkdir()
        path = write_page(sweep_of(folder, space, metrics))
        seen.page.goto(path.as_uri())
        seen.see("h2", "What no other beats" if len(metrics) > 1 else "Every trial over its settings")
        assert seen.page.evaluate("document.documentElement.scrollWidth") == width
        seen.page.screenshot(path=str(ARTIFACTS / f"sweep-{name}-{width}.png"), full_page=True)
    assert told == []
    assert [url for url in seen.asked if not url.startswith(("file://", "about:", "data:"))] == []
