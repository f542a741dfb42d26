"""A risk: its scores against scikit-learn's, its calibration, its decision and its reasons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from heliostat.batch import Batch
from heliostat.errors import DataError
from heliostat.features import FeatureSpec, PooledFeatures, TabularFeatures
from heliostat.heads.calibration import Calibration, fit_calibration
from heliostat.heads.risk import Risk, Risky
from heliostat.heads.risk_charts import mean_cost, net_benefit, risk_charts
from heliostat.heads.risk_metrics import risk_metrics, scores_of_histograms

LABELS = ("no", "yes")


def table(rows: int = 300, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    risks = np.round(rng.beta(1, 3, rows), 2)  # many ties
    events = rng.random(rows) < risks
    return pd.DataFrame({"target_label": np.where(events, "yes", "no"), "probability_yes": risks})


@pytest.mark.parametrize("name", list(risk_metrics(LABELS, 5.0, 1.0)))
def test_resamples_score_as_tables_of_these_rows_do(name: str) -> None:
    metric, rows = risk_metrics(LABELS, 5.0, 1.0)[name], table()
    counts = np.random.default_rng(1).integers(0, 3, (7, len(rows))).astype(np.float64)
    found = metric.resampled(rows, counts)  # type: ignore[attr-defined]
    for value, drawn in zip(found, counts, strict=True):
        picked = rows.iloc[np.repeat(np.arange(len(rows)), drawn.astype(int))]
        assert value == pytest.approx(metric(picked), abs=1e-9)


@pytest.mark.parametrize("label", ["yes", "no"])
def test_a_ranking_of_one_kind_is_undefined(label: str) -> None:
    from heliostat.evaluate.intervals import score

    rows = table().assign(target_label=label)
    metrics = risk_metrics(LABELS, 1.0, 1.0)
    assert all(np.isnan(score(metrics[name], rows)) for name in ("auc", "average_precision", "ks"))
    assert np.isfinite(score(metrics["brier_error"], rows))


def test_histograms_come_near_the_exact_scores() -> None:
    rows = table(4000)
    events, risks = (rows["target_label"] == "yes").to_numpy(), rows["probability_yes"].to_numpy()
    places = (risks * 100).round().astype(int)
    found = scores_of_histograms(
        np.bincount(places[events], minlength=101), np.bincount(places[~events], minlength=101)
    )
    assert found["auc"] == pytest.approx(roc_auc_score(events, risks), abs=1e-6)
    assert found["average_precision"] == pytest.approx(average_precision_score(events, risks), abs=1e-6)
    assert scores_of_histograms(np.zeros(4), np.ones(4))["auc"] == 0.0


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_calibration_mends_a_model_that_is_too_sure(kind: Any) -> None:
    rng = np.random.default_rng(3)
    true = rng.beta(1, 3, 20_000)
    events = rng.random(20_000) < true
    sure = 1 / (1 + np.exp(-(2.0 * np.log(true / (1 - true)) + 1.0)))
    head = Risk(Risk.Config(labels=LABELS, calibration=kind))
    given = [{"risk": float(risk)} for risk in sure]
    assert head.calibrate([{"label": "yes" if event else "no"} for event in events], given)
    module: Any = head.module(FeatureSpec(4))
    mended = module.risks(torch.tensor(np.log(sure / (1 - sure)), dtype=torch.float32)).numpy()
    before = pd.DataFrame({"target_label": np.where(events, "yes", "no"), "probability_yes": sure})
    error = risk_metrics(LABELS, 1, 1)["calibration_error"]
    assert error(before) > 0.08
    assert error(before.assign(probability_yes=mended)) < 0.012


def test_calibration_learns_nothing_where_there_is_nothing_to_learn() -> None:
    assert fit_calibration(np.array([0.2, 0.8]), np.array([True, True]), "platt") == Calibration(1.0, 0.0)
    wrong = fit_calibration(np.array([0.1, 0.2, 0.8, 0.9]), np.array([True, True, False, False]), "platt")
    assert wrong.slope == 1.0


def test_calibration_survives_a_checkpoint(tmp_path: Path) -> None:
    head = Risk(Risk.Config(labels=LABELS))
    head.fit([{"label": "yes"}, {"label": "no"}, {"label": "no"}])
    head.calibration = Calibration(0.7, -0.1, (0.1, 0.9), (0.2, 0.6))
    head.save(tmp_path)
    again = Risk(Risk.Config(labels=LABELS))
    again.load(tmp_path)
    assert (again.calibration, again.share) == (head.calibration, pytest.approx(1 / 3))


def test_the_costs_decide_and_the_reasons_add_up_to_nothing_unknown() -> None:
    head = Risk(Risk.Config(labels=LABELS, cost_of_miss=4.0, cost_of_alarm=1.0))
    assert head.threshold == pytest.approx(0.2)
    module: Any = head.module(FeatureSpec(2)).eval()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        module.linear.weight.copy_(torch.tensor([[1.0, 0.0]]))
        module.linear.bias.zero_()
    pooled = torch.tensor([[-1.0, 0.0], [-2.0, 5.0]])
    without = {"amount": torch.tensor([[-3.0, 0.0], [-2.0, 0.0]]), "bank": torch.tensor([[0.0, 0.0], [-1.0, 0.0]])}
    features = TabularFeatures(pooled, ("amount", "bank"), without.__getitem__)
    rows = module.predict(features, Batch(np.zeros(2, np.uint64)))
    assert [row["label"] for row in rows] == ["yes", "no"]
    assert list(rows[0]["reasons"]) == ["bank", "amount"]  # the strongest first
    assert rows[0]["reasons"]["amount"] > 0 > rows[0]["reasons"]["bank"]
    assert rows[1]["reasons"]["amount"] == pytest.approx(0.0)
    for row in rows:
        Risky.model_validate(row)
        assert sum(row["probabilities"].values()) == pytest.approx(1.0)
    plain = module.predict(PooledFeatures(pooled), Batch(np.zeros(2, np.uint64)))
    assert plain[0]["reasons"] == {}


@pytest.mark.parametrize(("labels", "message"), [(["yes"], "all 'yes'"), (["yes", "perhaps"], "'perhaps'")])
def test_a_target_that_teaches_nothing_is_refused(labels: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Risk(Risk.Config(labels=LABELS)).fit([{"label": label} for label in labels])


def test_net_benefit_and_cost_by_hand() -> None:
    events, risks, at = np.array([True, True, False, False]), np.array([0.9, 0.3, 0.6, 0.1]), np.array([0.5])
    assert net_benefit(events, risks, at)[0] == pytest.approx((1 - 1 * 1.0) / 4)
    assert mean_cost(events, risks, at, 5.0, 1.0)[0] == pytest.approx((5.0 + 1.0) / 4)


def test_charts_draw_every_model() -> None:
    charts = risk_charts({"model": table(), "core.boosting": table(seed=2)}, "yes", 5.0, 1.0)
    assert [chart.title for chart in charts] == ["Calibration of the risk", "Decision curve", "Cost by threshold"]
    for chart in charts:
        assert {"model", "core.boosting"} <= set(chart.lines)
        assert all(len(x) == len(y) > 0 and np.isfinite([*x, *y]).all() for x, y in chart.lines.values())
