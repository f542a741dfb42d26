"""Intervals: they hold the truth as often as they say, pair what is compared, and say what was left out."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from heliostat.evaluate.intervals import BLOCK_CELLS, Interval, compare, interval, p_value, resamples
from heliostat.evaluate.page import better, signed
from heliostat.heads.classification_metrics import Accuracy, Recall


def table(hits: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"target_label": "a", "label": np.where(hits, "a", "b")})


def plain_accuracy(frame: pd.DataFrame) -> float:
    return float((frame["target_label"] == frame["label"]).mean())


def test_an_interval_holds_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(3)
    intervals = [
        compare({"model": table(rng.random(200) < 0.8)}, {"accuracy": Accuracy()}, 250).scores["model"]["accuracy"]
        for _ in range(120)
    ]
    held = sum(each.low <= 0.8 <= each.high for each in intervals)
    assert 105 <= held <= 119  # 114 are expected; the range is that of the binomial (99.9 %)


def test_the_width_is_that_of_theory() -> None:
    scored = compare({"model": table(np.arange(2000) % 5 != 0)}, {"accuracy": Accuracy()}, 2000).scores["model"][
        "accuracy"
    ]
    half = 1.96 * math.sqrt(0.8 * 0.2 / 2000)
    assert scored.value == pytest.approx(0.8)
    assert scored.low == pytest.approx(0.8 - half, abs=0.003)
    assert scored.high == pytest.approx(0.8 + half, abs=0.003)


def test_a_plain_metric_and_a_vectorised_one_have_the_same_interval() -> None:
    frame = table(np.arange(90) % 4 != 0)
    scores = compare({"model": frame}, {"fast": Accuracy(), "plain": plain_accuracy}, 100).scores["model"]
    assert scores["fast"] == pytest.approx(scores["plain"])


def test_a_model_does_not_differ_from_itself() -> None:
    frame = table(np.arange(100) % 3 != 0)
    compared = compare({"model": frame, "twin": frame.copy()}, {"accuracy": Accuracy()}, 100)
    assert compared.differences == {"twin": {"accuracy": Interval(0.0, 0.0, 0.0)}}
    assert not compared.differences["twin"]["accuracy"].excludes_zero


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    rng = np.random.default_rng(5)
    hits = rng.random(500) < 0.7
    better = hits | (rng.random(500) < 0.15)  # right wherever the other is, and on some rows more
    compared = compare({"model": table(better), "other": table(hits)}, {"accuracy": Accuracy()}, 500)
    difference = compared.differences["other"]["accuracy"]
    width = compared.scores["model"]["accuracy"].high - compared.scores["model"]["accuracy"].low
    assert difference.excludes_zero
    assert difference.high - difference.low < 0.75 * width


def test_resamples_on_which_a_score_is_undefined_are_left_out_and_counted() -> None:
    frame = pd.DataFrame({"target_label": ["rare", *["a"] * 9], "label": ["rare", *["a"] * 9]})
    scored = compare({"model": frame}, {"recall": Recall("rare")}, 1000).scores["model"]["recall"]
    assert scored[:3] == (1.0, 1.0, 1.0)
    assert scored.left_out == pytest.approx(1000 * 0.9**10, abs=60)


def test_a_metric_may_say_undefined_by_a_value_error() -> None:
    def never(frame: pd.DataFrame) -> float:
        raise ValueError("a single class")

    scored = compare({"model": table(np.ones(5, bool))}, {"never": never}, 10).scores["model"]["never"]
    assert math.isnan(scored.value)
    assert math.isnan(scored.low)
    assert scored.left_out == 10


def test_an_undefined_value_has_no_interval() -> None:
    scored = interval(float("nan"), np.array([0.1, 0.2]))
    assert math.isnan(scored.low)
    assert math.isnan(scored.high)


def test_every_resample_draws_as_many_rows_as_there_are_in_blocks_that_fit() -> None:
    rows = BLOCK_CELLS // 3
    blocks = list(resamples(rows, 5))
    assert [len(block) for block in blocks] == [3, 2]
    assert all((block.sum(1) == rows).all() for block in blocks)
    assert not (blocks[0][0] == blocks[1][0]).all()


def test_the_same_predictions_have_the_same_interval() -> None:
    frame = table(np.arange(60) % 4 != 0)
    first, second = (compare({"model": frame}, {"accuracy": Accuracy()}, 50) for _ in range(2))
    assert first == second


def test_a_p_value_is_two_sided_never_zero_and_below_five_percent_where_the_interval_excludes_zero() -> None:
    rng = np.random.default_rng(11)
    for shift in np.linspace(-3.0, 3.0, 61):
        drawn = rng.normal(shift, 1.0, 999)
        p = p_value(drawn)
        assert 0 < p <= 1
        assert p == p_value(-drawn)
        assert (p < 0.05) == interval(shift, drawn).excludes_zero or abs(p - 0.05) < 0.005
    assert p_value(np.zeros(100)) == 1.0
    assert p_value(np.full(999, 2.0)) == pytest.approx(0.002)
    assert math.isnan(p_value(np.full(3, np.nan)))


def test_rows_that_are_drawn_together_count_once() -> None:
    hits = np.arange(200) % 4 != 0
    alone = compare({"model": table(hits)}, {"accuracy": Accuracy()}, 400).scores["model"]["accuracy"]
    copies = table(np.repeat(hits, 5))
    together = compare({"model": copies}, {"accuracy": Accuracy()}, 400, groups=np.repeat(np.arange(200.0), 5))
    assert together.scores["model"]["accuracy"] == pytest.approx(alone)
    apart = compare({"model": copies}, {"accuracy": Accuracy()}, 400).scores["model"]["accuracy"]
    assert apart.high - apart.low < 0.6 * (alone.high - alone.low)


def test_better_knows_that_errors_should_fall() -> None:
    gain, loss, unclear = Interval(0.1, 0.05, 0.2), Interval(-0.1, -0.2, -0.05), Interval(0.1, -0.1, 0.2)
    assert [better("macro_f1", each) for each in (gain, loss, unclear)] == [True, False, None]
    assert [better("calibration_error", each) for each in (gain, loss, unclear)] == [False, True, None]
    assert signed(-0.25) == "−0.250"
    assert signed(float("nan")) == "–"
