"""Scores of a classification: the vectorised form equals scikit-learn's on every resample, and both the textbook."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat.evaluate.intervals import ResampledMetric, resamples, score
from heliostat.heads.classification_metrics import CalibrationError, classification_metrics

LABELS = ("negative", "neutral", "positive")


def drawn_table(rows: int, seed: int, labels: tuple[str, ...] = LABELS, decimals: int = 2) -> pd.DataFrame:
    """Predictions that are right more often than not; rounded probabilities, so that ties occur."""
    rng = np.random.default_rng(seed)
    targets = rng.choice(
        len(labels), rows, p=np.array([0.1, 0.2, 0.7])[: len(labels)] / sum([0.1, 0.2, 0.7][: len(labels)])
    )
    logits = rng.normal(size=(rows, len(labels))) + 1.5 * np.eye(len(labels))[targets]
    probabilities = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).round(decimals)
    names = np.array(labels, dtype=object)
    table = pd.DataFrame({"target_label": names[targets], "label": names[probabilities.argmax(1)]})
    return table.assign(**{f"probability_{name}": probabilities[:, place] for place, name in enumerate(labels)})


@settings(max_examples=8, deadline=None)
@given(rows=st.integers(1, 60), seed=st.integers(0, 10_000), size=st.sampled_from([2, 3]))
def test_vectorised_scores_equal_scikit_learn_on_each_resample(rows: int, seed: int, size: int) -> None:
    labels = LABELS[:size]
    table = drawn_table(rows, seed, labels)
    (counts,) = resamples(rows, 2, seed)
    for name, metric in classification_metrics(labels).items():
        assert isinstance(metric, ResampledMetric)
        fast = metric.resampled(table, counts)
        slow = [score(metric, table.iloc[np.repeat(np.arange(rows), row.astype(int))]) for row in counts]
        np.testing.assert_allclose(fast, slow, atol=1e-12, err_msg=name)


def test_perfect_predictions_score_one() -> None:
    table = drawn_table(200, 0)
    table["label"] = table["target_label"]
    for label in LABELS:
        table[f"probability_{label}"] = (table["target_label"] == label).astype(float)
    scores = {name: metric(table) for name, metric in classification_metrics(LABELS).items()}
    assert scores.pop("calibration_error") == 0.0
    assert set(scores.values()) == {1.0}


def test_calibration_error_is_the_weighted_gap_of_the_bins() -> None:
    # Two bins are filled: three rows at .9 of which two are right, one row at .6 that is right.
    table = pd.DataFrame(
        {
            "target_label": ["a", "a", "b", "a"],
            "label": ["a", "a", "a", "a"],
            "probability_a": [0.9, 0.9, 0.9, 0.6],
            "probability_b": [0.1, 0.1, 0.1, 0.4],
        }
    )
    expected = 3 / 4 * abs(2 / 3 - 0.9) + 1 / 4 * abs(1 - 0.6)
    assert CalibrationError(("a", "b"))(table) == pytest.approx(expected)


def test_a_confidence_of_one_is_in_the_last_bin_and_zero_in_the_first() -> None:
    table = pd.DataFrame(
        {"target_label": ["a", "a"], "label": ["a", "b"], "probability_a": [1.0, 0.0], "probability_b": 0.0}
    )
    assert CalibrationError(("a", "b"))(table) == pytest.approx(0.0)


def test_what_the_rows_leave_undefined_is_nan() -> None:
    table = drawn_table(50, 1)
    table = table[table["target_label"] == "positive"].assign(label="positive")
    scores = {name: metric(table) for name, metric in classification_metrics(LABELS).items()}
    assert {name for name, value in scores.items() if math.isnan(value)} == {
        "auc",
        "precision_negative",
        "precision_neutral",
        "recall_negative",
        "recall_neutral",
    }


def test_macro_f1_leaves_out_classes_that_neither_occur_nor_are_predicted() -> None:
    table = pd.DataFrame({"target_label": ["positive", "negative"], "label": ["positive", "negative"]})
    assert classification_metrics(LABELS)["macro_f1"](table) == 1.0


def test_labels_may_hold_anything() -> None:
    labels = ("<b>", "$x$")
    table = drawn_table(40, 2, labels)
    scores = {name: metric(table) for name, metric in classification_metrics(labels).items()}
    assert 0 < scores["recall_<b>"] <= 1
    assert 0 < scores["precision_$x$"] <= 1
