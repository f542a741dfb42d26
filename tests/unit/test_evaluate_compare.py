"""Two models on the same rows: what is compared, what is refused, and what a person is shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliostat.baselines.tfidf import TfidfBaseline
from heliostat.cli.compare import names
from heliostat.component import Row
from heliostat.errors import DataError
from heliostat.evaluate.disagreements import differ, disagreements, distance
from heliostat.evaluate.paired import PairedReport, Side, compare_models
from heliostat.heads.classification import Classification
from heliostat.plugin import TaskHead
from heliostat.run import Run, check

REVIEWS = Path(__file__).parents[2] / "plugins/sentiment/heliostat_sentiment/data/reviews.parquet"
SCRIPT = "<script>alert(1)</script>"


class Answers(NamedTuple):
    """A fitted model that answers."""

    run: Run
    head: TaskHead
    model: TfidfBaseline

    def predict(self, examples: Sequence[Row]) -> list[Row]:
        return self.model.predict(examples)


@pytest.fixture(scope="module")
def sides() -> tuple[Side, Side]:
    """A model of 600 reviews and one of 60, and the 300 reviews that neither saw."""
    reviews = pd.read_parquet(REVIEWS).dropna(subset=["review"]).iloc[::24]
    labels = np.where(reviews["rating"] <= 3, "negative", "positive")
    examples = [{"text": text, "label": label} for text, label in zip(reviews["review"], labels, strict=True)]
    test, train = examples[:300], examples[300:900]
    test[0] = {"text": SCRIPT, "label": "negative"}
    run = check(
        {
            "name": "sentiment",
            "data": {"adapter": "core.columns", "source": "reviews.csv"},
            "encoder": {"type": "core.text", "preset": "tiny"},
            "head": "core.classification",
            "evaluate": {"resamples": 300},
        }
    )
    found = []
    for name, count in (("much", 600), ("little", 60)):
        head = Classification()
        head.fit(train)
        model = TfidfBaseline(TfidfBaseline.Config(strength=20.0))
        model.fit(train[:count], head)
        found.append(Side(name, Answers(run, head, model), list(range(300)), test))
    return found[0], found[1]


@pytest.fixture(scope="module")
def report(sides: tuple[Side, Side], tmp_path_factory: pytest.TempPathFactory) -> PairedReport:
    first, second = sides
    order = np.random.default_rng(3).permutation(300).tolist()  # the other's rows come in another order
    turned = second._replace(ids=[second.ids[place] for place in order], examples=[second.examples[p] for p in order])
    return compare_models(first, turned, tmp_path_factory.mktemp("compare"))


def test_differences_are_those_of_the_scores_on_the_same_rows(report: PairedReport, sides: tuple[Side, Side]) -> None:
    table = pd.read_parquet(report.table)
    assert list(table["id"]) == list(sides[0].ids)
    for name, gap in report.differences.items():
        assert gap.value == pytest.approx(report.scores["first"][name].value - report.scores["second"][name].value)
    metric = sides[1].answers.head.metrics()["accuracy"]
    answered = pd.DataFrame({"target_label": table["target_label"], "label": table["second_label"]})
    assert report.scores["second"]["accuracy"].value == pytest.approx((answered.target_label == answered.label).mean())
    assert metric(sides_view(table)) == pytest.approx(report.scores["second"]["accuracy"].value)
    gap = report.differences["accuracy"]
    assert gap.low < gap.value < gap.high
    assert (report.p_values["accuracy"] < 0.05) == gap.excludes_zero


def sides_view(table: pd.DataFrame) -> pd.DataFrame:
    mine = [name for name in table if name.startswith("second_")]
    return table[["target_label", *mine]].rename(columns=lambda name: name.removeprefix("second_"))


def test_swapping_the_two_turns_every_difference_around(
    report: PairedReport, sides: tuple[Side, Side], tmp_path: Path
) -> None:
    turned = compare_models(sides[1], sides[0], tmp_path)
    for name, gap in report.differences.items():
        assert turned.differences[name].value == pytest.approx(-gap.value)
        assert turned.differences[name].low == pytest.approx(-gap.high)
        assert turned.p_values[name] == report.p_values[name]
    assert turned.disagreements.right["first"] == report.disagreements.right["second"]


def test_the_surest_disagreements_stand_at_the_top_and_say_who_is_right(report: PairedReport) -> None:
    table, apart = pd.read_parquet(report.table).set_index("id"), report.disagreements
    differing = table[table["label"] != table["second_label"]]
    assert apart.num_differing == len(differing) == sum(apart.right.values())
    gaps = (differing["probability_positive"] - differing["second_probability_positive"]).abs()
    assert [each.id for each in apart.shown][:5] == list(gaps.sort_values(ascending=False, kind="stable").index[:5])
    for each in apart.shown:
        row = table.loc[each.id]
        assert each.right == ("first" if row["label"] == row["target_label"] else "second")
        assert row["label"] in each.first


def test_the_page_says_the_verdict_and_escapes_what_came_from_data(report: PairedReport) -> None:
    page = report.html.read_text(encoding="utf-8")
    assert "much is better than little by" in page
    assert SCRIPT not in page
    assert "http" not in page.split("</style>")[1]
    said = json.loads(report.json.read_text(encoding="utf-8"))
    assert said["differences"]["macro_f1"]["p_value"] == report.p_values["macro_f1"]
    assert len(said["disagreements"]["shown"]) == min(50, said["disagreements"]["num_differing"])


def test_a_model_is_not_told_apart_from_itself(sides: tuple[Side, Side], tmp_path: Path) -> None:
    twin = compare_models(sides[0], sides[0]._replace(name="twin"), tmp_path)
    assert twin.disagreements.num_differing == 0
    assert set(twin.p_values.values()) == {1.0}
    assert "Not told apart" in twin.html.read_text(encoding="utf-8")


def test_other_rows_targets_and_classes_are_refused(sides: tuple[Side, Side], tmp_path: Path) -> None:
    first, second = sides
    fewer = second._replace(ids=second.ids[:250], examples=second.examples[:250])
    with pytest.raises(DataError, match=r"250 are in both, 50 only in much's, 0 only in little's.*--data FILE"):
        compare_models(first, fewer, tmp_path)
    turned = [{**row, "label": "neither"} for row in second.examples]
    with pytest.raises(DataError, match=r"other targets \(label\)"):
        compare_models(first, second._replace(examples=turned), tmp_path)
    head = Classification()
    head.fit([{"label": "positive"}, {"label": "negative"}, {"label": "neutral"}])
    third = second._replace(answers=second.answers._replace(head=head))  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="other classes: neutral"):
        compare_models(first, third, tmp_path)


@given(st.dictionaries(st.sampled_from("abc"), st.floats(0.01, 1), min_size=3), st.data())
def test_the_distance_of_probabilities_is_a_distance(weights: dict[str, float], data: st.DataObject) -> None:
    other = data.draw(st.fixed_dictionaries(dict.fromkeys(weights, st.floats(0.01, 1))))
    one, two = ({"probabilities": {k: v / sum(d.values()) for k, v in d.items()}} for d in (weights, other))
    assert distance(one, one) == 0
    assert 0 <= distance(one, two) <= 1 + 1e-9
    assert distance(one, two) == pytest.approx(distance(two, one))


def test_answers_of_other_tasks_have_a_distance_too() -> None:
    assert not differ({"value": 1.0}, {"value": 1.0 + 1e-6})
    assert differ({"value": 1.0}, {"value": 1.2})
    assert distance({"value": 1.0}, {"value": 3.5}) == 2.5
    assert distance({"text": "ab cd"}, {"text": "ab cd"}) == 0
    assert 0 < distance({"text": "ab cd"}, {"text": "ab ce"}) < distance({"text": "ab cd"}, {"text": "xyz"})
    beside = ({"text": "ab cd", "nearest": {"text": "one"}}, {"text": "ab ce", "nearest": {"text": "other"}})
    assert distance(*beside) == distance({"text": "ab cd"}, {"text": "ab ce"})
    assert distance({"labels": ["a", "b"]}, {"labels": ["b", "c"]}) == pytest.approx(2 / 3)


class Writes(Classification):
    """Free text in place of a class."""

    target_fields = ("answer",)


def test_of_free_texts_nobody_is_right_and_the_search_behind_them_does_not_count() -> None:
    examples = [{"text": f"ask {number}", "answer": f"say {number}"} for number in range(4)]
    first = [{"answer": f"say {number}", "beams": [{"answer": "x", "score": number}]} for number in range(4)]
    second = [{**row, "beams": [{"answer": "x", "score": 0.5}]} for row in first]
    second[2] = {"answer": "say nothing", "beams": []}
    first[2]["nearest"] = {"text": "ask 2", "similarity": 0.5}  # a record beside the answer is no probability
    found = disagreements(Writes(), range(4), examples, first, second)
    assert (found.num_differing, found.right) == (1, {})
    [one] = found.shown
    assert (one.id, one.target, one.first, one.second, one.right) == (2, "say 2", "say 2", "say nothing", "")


def test_names_are_as_short_as_tells_them_apart() -> None:
    assert names("mood:1", "mood:2") == ("mood:1", "mood:2")
    assert names("runs/a/checkpoints/step-1", "runs/b/checkpoints/step-1") == (
        "a checkpoints step-1",
        "b checkpoints step-1",
    )
    assert names("mood", "mood") == ("mood (A)", "mood (B)")
