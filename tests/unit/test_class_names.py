"""Classes that a source holds as numbers or truths: they go by their text in settings, examples and answers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from heliostat.adapters.columns import Columns
from heliostat.component import as_class
from heliostat.data.examples import ExampleMaker
from heliostat.data.prepare import prepare
from heliostat.data.rejects import Place, Reject
from heliostat.evaluate import evaluate
from heliostat.heads.classification import Classification
from heliostat.heads.hierarchy import Hierarchy
from heliostat.heads.multilabel import MultiLabel
from heliostat.heads.regression import Regression
from heliostat.heads.tagging import Tagging
from heliostat.plugin import TaskHead
from heliostat.predict import Predictor
from heliostat.run import check
from heliostat.train.finish import finished_model
from heliostat.train.loop import fit
from heliostat.train.worker import LocalWorker, set_threads


def made(head: TaskHead, record: dict[str, Any]) -> Any:
    (outcome,) = ExampleMaker(Columns(), head, dict.fromkeys(record, "string"), {})([(Place("a.csv", 1), record)])
    return outcome


@pytest.mark.parametrize(
    ("value", "name"),
    [(1, "1"), (1.0, "1"), (-0.0, "0"), (0.5, "0.5"), (True, "true"), (False, "false"), ("1.0", "1.0")],
)
def test_a_class_goes_by_what_one_would_type(value: Any, name: str) -> None:
    assert as_class(value) == name
    assert Classification.Config.model_validate({"labels": [value, "other"]}).labels == (name, "other")
    assert made(Classification(), {"text": "x", "label": value}).values["label"] == name


def test_lists_of_classes_are_names_and_numbers_stay_numbers() -> None:
    assert made(MultiLabel(), {"text": "x", "labels": [1, True, "a"]}).values["labels"] == ["1", "true", "a"]
    assert made(Hierarchy(), {"text": "x", "path": [1, 1.0]}).values["path"] == ["1", "1"]
    assert made(Tagging(), {"words": ["a", "b"], "tags": [0, 1]}).values["tags"] == ["0", "1"]
    assert made(Regression(), {"text": "x", "value": 1.0}).values["value"] == 1.0
    assert isinstance(made(Classification(), {"text": "x", "label": float("nan")}), Reject), "no class is called nan"


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 made-up lines, the label 0 or 1."""
    dice, path = random.Random(3), tmp_path_factory.mktemp("reviews") / "reviews.csv"
    words = {0: ["awful", "thin", "poor"], 1: ["lovely", "great", "warm"]}
    labels = [dice.choice([0, 1]) for _ in range(120)]
    lines = [
        f"{' '.join(dice.choices([*words[label], 'the', 'is'], k=6))} {n},{label}" for n, label in enumerate(labels)
    ]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    "head",
    [
        {"type": "core.classification", "decide": "macro_f1"},
        {"type": "core.risk", "labels": [0, 1], "reasons": False},
    ],
)
def test_a_run_over_numbers_is_finished_evaluated_and_answers(
    reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: dict[str, Any]
) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    set_threads(1)
    run = check(
        {
            "name": "stars",
            "data": {"adapter": "core.columns", "source": str(reviews), "split": {"valid": 0.2, "test": 0.2}},
            "encoder": {"type": "core.text", "preset": "tiny", "vocab_size": 300, "dropout": 0.0},
            "head": head,
            "train": {"epochs": 4, "tokens_per_batch": 256, "lr": 5e-3, "precision": "fp32"},
            "evaluate": {"resamples": 20, "baselines": ["core.tfidf"]},
        }
    )
    prepared = prepare(run)
    outcome = fit(run, prepared, LocalWorker(), tmp_path / "run")
    best = tmp_path / "run" / "checkpoints" / f"step-{outcome.best.step:08d}"
    predictor = Predictor.load(finished_model(tmp_path / "run", best, prepared))
    report = evaluate(predictor, prepared, tmp_path / "report")
    score = type(predictor.head).selects
    assert report.scores[score].value > 0.8
    assert report.baselines["core.tfidf"][score].value > 0.8
    (answer,) = predictor.predict([{"text": "lovely great warm"}])
    assert answer["label"] == "1"
    assert set(answer["probabilities"]) == {"0", "1"}
