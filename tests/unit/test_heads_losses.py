"""Heads of core beside plain classification: focal loss, regression, several labels. Each learns in a tiny run."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from heliostat.batch import Batch, Ragged
from heliostat.data.prepare import prepare
from heliostat.errors import DataError, RunError
from heliostat.evaluate import evaluate
from heliostat.features import FeatureSpec, PooledFeatures
from heliostat.heads.classification import Classification
from heliostat.heads.multilabel import MultiLabel
from heliostat.heads.multilabel_metrics import multilabel_metrics
from heliostat.heads.regression import Regression
from heliostat.heads.regression_metrics import regression_metrics
from heliostat.predict import Predictor
from heliostat.run import check
from heliostat.train.loop import fit
from heliostat.train.worker import LocalWorker, set_threads

SPEC = FeatureSpec(4)


def _batch(**columns: Any) -> Batch:
    held = {
        name: Ragged.of([torch.tensor(row) for row in values]) if isinstance(values[0], list) else torch.tensor(values)
        for name, values in columns.items()
    }
    return Batch(np.arange(len(next(iter(columns.values()))), dtype=np.uint64), held)


def _focal(**settings: Any) -> tuple[Classification, Any]:
    torch.manual_seed(0)
    head = Classification(Classification.Config(labels=("a", "b", "c"), dropout=0.0, **settings))
    head.fit([{"label": label} for label in "aabc"])
    return head, head.module(SPEC)


@torch.no_grad()
def test_focal_loss_is_the_cross_entropy_of_what_is_not_yet_known() -> None:
    features, batch = PooledFeatures(torch.randn(5, 4) * 9), _batch(target=[0, 1, 2, 0, 1])
    _, focal = _focal(loss="focal", gamma=2.0)
    _, plain = _focal()
    right = plain.logits(features).softmax(-1)[torch.arange(5), batch.dense("target")]
    expected = (-((1 - right) ** 2) * right.log()).sum()
    loss = focal.loss(features, batch)["loss"]
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)
    assert float(loss) < float(plain.loss(features, batch)["loss"])


def test_focal_loss_has_a_finite_gradient_where_the_answer_is_certain() -> None:
    _, focal = _focal(loss="focal", gamma=0.5)
    pooled = (torch.ones(1, 4) * 1e4).requires_grad_()
    focal.loss(PooledFeatures(pooled), _batch(target=[int(focal.logits(PooledFeatures(pooled)).argmax())]))[
        "loss"
    ].backward()
    assert pooled.grad is not None
    assert bool(pooled.grad.isfinite().all())


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        ({"type": "core.classification", "gamma": 2.0}, "gamma has no effect beside loss: cross_entropy"),
        ({"type": "core.classification", "loss": "focal", "label_smoothing": 0.1}, "label_smoothing has no effect"),
        ({"type": "core.regression", "delta": 1.0}, "delta has no effect beside loss: mse"),
    ],
)
def test_a_setting_of_another_loss_is_refused(head: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RunError, match=sentence):
        check({"name": "x", "data": {"adapter": "core.columns", "source": "x"}, "encoder": _ENCODER, "head": head})


def test_regression_answers_in_the_unit_of_its_targets(tmp_path: Path) -> None:
    head = Regression()
    head.fit([{"value": value} for value in ("100", 200, 300.0)])
    assert (head.mean, head.std) == (200.0, pytest.approx(81.65, abs=0.01))
    head.save(tmp_path)
    again = Regression()
    again.load(tmp_path)
    assert (again.mean, again.std) == (head.mean, head.std)
    module = again.module(SPEC)
    torch.nn.init.zeros_(module.linear.weight)
    assert module.predict(PooledFeatures(torch.ones(2, 4)), _batch(target=[0.0, 0.0])) == [{"value": 200.0}] * 2


@torch.no_grad()
def test_huber_grows_linearly_where_mse_squares() -> None:
    far, near = PooledFeatures(torch.zeros(1, 4)), _batch(target=[10.0])
    mse, huber = Regression(), Regression(Regression.Config(loss="huber", delta=2.0))
    losses = [float(head.module(SPEC).eval().loss(far, near)["loss"]) for head in (mse, huber)]
    assert losses == pytest.approx([100.0, 2.0 * (10.0 - 1.0)])


@pytest.mark.parametrize("value", [None, "many", float("nan")])
def test_a_target_that_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match="'value' must be a finite number"):
        Regression().encode([{"value": value}], SPEC)


def test_targets_that_are_all_equal_are_refused() -> None:
    with pytest.raises(DataError, match="targets that differ"):
        Regression().fit([{"value": 3.0}, {"value": 3.0}])


def test_regression_scores_come_from_sums_that_add_up() -> None:
    head = Regression()
    head.fit([{"value": float(value)} for value in range(10)])
    targets, values = np.arange(10.0), np.arange(10.0) * 0.5 + 1
    batch = _batch(target=((targets - head.mean) / head.std).tolist())
    scores = head.scores(head.tally(batch, [{"value": value} for value in values]))
    table = pd.DataFrame({"target_value": targets, "value": values})
    for name, score in scores.items():
        assert score == pytest.approx(regression_metrics()[name](table), rel=1e-5), name


def test_regression_metrics_of_resamples_are_those_of_the_rows_drawn() -> None:
    from scipy.stats import spearmanr

    dice = np.random.default_rng(0)
    table = pd.DataFrame({"target_value": dice.integers(0, 6, 40) * 1.0, "value": dice.normal(size=40).round(1)})
    drawn = [dice.integers(0, 40, 40) for _ in range(5)]
    counts = np.stack([np.bincount(rows, minlength=40) for rows in drawn]).astype(np.float64)
    for name, metric in regression_metrics().items():
        expected = [metric(table.iloc[rows]) for rows in drawn]
        assert metric.resampled(table, counts) == pytest.approx(expected), name  # type: ignore[attr-defined]
    assert regression_metrics()["spearman"](table) == pytest.approx(spearmanr(table["target_value"], table["value"])[0])


def test_undefined_regression_scores_are_not_numbers() -> None:
    table = pd.DataFrame({"target_value": [2.0, 2.0], "value": [1.0, 3.0]})
    scores = {name: metric(table) for name, metric in regression_metrics().items()}
    assert np.isnan([scores["r2"], scores["spearman"]]).all()
    assert scores["mean_absolute_error"] == 1.0


def test_multilabel_metrics_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, f1_score, hamming_loss

    labels, dice = ("x", "y", "z"), np.random.default_rng(1)
    held = [dice.integers(0, 2, (30, 3)) for _ in range(2)]
    lists = [[[label for label, is_on in zip(labels, row, strict=True) if is_on] for row in each] for each in held]
    table = pd.DataFrame({"target_labels": lists[0], "labels": lists[1]})
    scores = {name: metric(table) for name, metric in multilabel_metrics(labels).items()}
    assert scores["micro_f1"] == pytest.approx(f1_score(*held, average="micro"))
    assert scores["macro_f1"] == pytest.approx(f1_score(*held, average="macro"))
    assert scores["exact_match"] == pytest.approx(accuracy_score(*held))
    assert scores["hamming_error"] == pytest.approx(hamming_loss(*held))
    assert scores["f1_y"] == pytest.approx(f1_score(held[0][:, 1], held[1][:, 1]))
    rows = dice.integers(0, 30, 30)
    counts = np.bincount(rows, minlength=30)[None].astype(np.float64)
    for metric in multilabel_metrics(labels).values():
        assert metric.resampled(table, counts)[0] == pytest.approx(metric(table.iloc[rows]))  # type: ignore[attr-defined]


def test_labels_that_are_unknown_or_no_list_are_refused() -> None:
    head = MultiLabel(MultiLabel.Config(labels=("red", "blue")))
    with pytest.raises(DataError, match=r"'rad' is none of the labels red, blue\. Did you mean 'red'\?"):
        head.encode([{"labels": ["rad"]}], SPEC)
    with pytest.raises(DataError, match=r"must be a list of labels"):
        head.fit([{"labels": "red|blue"}])


_ENCODER = {"type": "core.text", "preset": "tiny", "vocab_size": 300, "dropout": 0.0}
_WORDS = {"red": "rose", "blue": "sky", "green": "leaf"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 made-up lines, each with a label, a number and a list of labels that its words give away."""
    dice, path = random.Random(3), tmp_path_factory.mktemp("lines") / "lines.jsonl"
    with path.open("w") as file:
        for number in range(150):
            held = [label for label in _WORDS if dice.random() < 0.5]
            words = [_WORDS[label] for label in held] + dice.choices(["the", "a", "and", "of"], k=3)
            dice.shuffle(words)
            row = {"text": f"{' '.join(words)} {number}", "labels": held, "value": 50.0 + 10 * len(held)}
            file.write(json.dumps({**row, "label": "many" if len(held) > 1 else "few"}) + "\n")
    return path


@pytest.mark.parametrize(
    ("head", "score", "baseline"),
    [
        ({"type": "core.classification", "loss": "focal", "gamma": 1.5}, "macro_f1", "core.tfidf"),
        ({"type": "core.regression"}, "r2", "core.ridge"),
        ({"type": "core.regression", "loss": "huber", "delta": 0.5}, "r2", "core.mean"),
        ({"type": "core.multilabel", "threshold": 0.4}, "micro_f1", "core.tfidf_labels"),
    ],
)
def test_each_loss_falls_and_the_report_holds_its_scores(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: dict[str, Any], score: str, baseline: str
) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    set_threads(1)
    data = {"adapter": "core.columns", "source": str(source), "split": {"valid": 0.2, "test": 0.2}}
    train = {"epochs": 12, "tokens_per_batch": 256, "lr": 5e-3, "log_every": 1, "precision": "fp32"}
    run = check(
        {"name": "toy", "data": data, "encoder": _ENCODER, "head": head, "train": train, "evaluate": {"resamples": 20}}
    )
    prepared = prepare(run)
    outcome = fit(run, prepared, LocalWorker(), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert np.mean(losses[-3:]) < 0.6 * np.mean(losses[:3])
    checkpoint = tmp_path / "run" / "checkpoints" / f"step-{outcome.best.step:08d}"
    predictor = Predictor.load(checkpoint)
    report = evaluate(predictor, prepared, tmp_path / "report")
    assert report.scores[score].value > 0.5
    assert score in report.baselines[baseline]
    answer = predictor.predict([{"text": "rose leaf sky"}])[0]
    predictor.head.gives.model_validate(answer)
    assert json.loads(json.dumps(answer)) == answer
