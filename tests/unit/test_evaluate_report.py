"""The whole evaluation on real reviews: one table, a report that needs nothing else, and nothing private in it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from heliostat.baselines.tfidf import TfidfBaseline
from heliostat.component import Row
from heliostat.data.prepared import Prepared
from heliostat.errors import DataError
from heliostat.evaluate import Report, evaluate, plots
from heliostat.plugin import TaskHead
from heliostat.run import Run, check

REVIEWS = Path(__file__).parents[2] / "plugins/sentiment/heliostat_sentiment/data/reviews.parquet"
SCRIPT = "<script>alert('x')</script> Lovely, perfect, beautiful, I love it & wear it all the time"
DEPARTMENT = "<img src=x onerror=alert(1)>"


class Predicts(NamedTuple):
    """A fitted model that answers: all that an evaluation needs of a predictor."""

    run: Run
    head: TaskHead
    baseline: TfidfBaseline

    def predict(self, examples: Sequence[Row]) -> list[Row]:
        assert all(set(example) == {"text"} for example in examples), "a model is asked for what its head takes only"
        return self.baseline.predict(examples)


@pytest.fixture(scope="module")
def prepared_run(
    tmp_path_factory: pytest.TempPathFactory, evaluated_run: Callable[[Path], Iterator[tuple[Run, Prepared]]]
) -> Iterator[tuple[Run, Prepared]]:
    folder = tmp_path_factory.mktemp("evaluate")
    reviews = pd.read_parquet(REVIEWS).iloc[::30].copy()
    reviews["label"] = pd.cut(reviews["rating"], [0, 2, 3, 5], labels=["negative", "neutral", "positive"]).astype(str)
    mine = reviews.iloc[:90].assign(
        review=[f"{SCRIPT} {place}" for place in range(90)], label="negative", department=DEPARTMENT
    )
    source = folder / "reviews.parquet"
    pd.concat([reviews, mine]).dropna(subset=["review"]).to_parquet(source)
    yield from evaluated_run(source)


@pytest.fixture(scope="module")
def predictor(prepared_run: tuple[Run, Prepared]) -> Predicts:
    run, prepared = prepared_run
    head = prepared.parts(run).head
    model = TfidfBaseline(TfidfBaseline.Config(characters=(3, 4), strength=50.0))
    train = [row for row in prepared.examples("train") if "<script>" not in row["text"]]
    model.fit(train, head)
    return Predicts(run, head, model)


@pytest.fixture(scope="module")
def report(predictor: Predicts, prepared_run: tuple[Run, Prepared], tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("run-1")
    rows = [{"step": step, "epoch": step / 10, "loss": 1 / step} for step in range(1, 60)]
    rows += [
        {"step": step, "epoch": step / 10, "valid/loss": 1.2 / step, "valid/macro_f1": step / 80} for step in (20, 59)
    ]
    lines = [json.dumps(row) for row in rows]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 60, "lo']), encoding="utf-8")
    said: list[tuple[str, int, int]] = []
    made = evaluate(
        predictor,
        prepared_run[1],
        folder / "report",
        curves=folder / "metrics.jsonl",
        on_progress=lambda *word: said.append(word),
    )
    assert said[-1] == ("core.tfidf", made.rows, made.rows)
    return made


def test_every_metric_has_an_interval_around_it_and_a_baseline_beside_it(report: Report) -> None:
    assert report.primary == "macro_f1"
    assert list(report.baselines) == ["core.tfidf"]
    for name, score in report.scores.items():
        assert score.low <= score.value <= score.high or name == "calibration_error" or score.left_out
        difference = report.differences["core.tfidf"][name]
        assert difference.value == pytest.approx(score.value - report.baselines["core.tfidf"][name].value)


def test_the_scores_can_be_computed_again_from_the_table_alone(report: Report, predictor: Predicts) -> None:
    table = pd.read_parquet(report.table)
    assert len(table) == report.rows == report.counts["test"]
    for name, metric in predictor.head.metrics().items():
        assert metric(table) == pytest.approx(report.scores[name].value)
    prefix = "core_tfidf_"
    mine = [name.removeprefix(prefix) for name in table if name.startswith(prefix)]
    baseline = table.drop(columns=mine).rename(columns=lambda name: name.removeprefix(prefix))
    for name, metric in predictor.head.metrics().items():
        assert metric(baseline) == pytest.approx(report.baselines["core.tfidf"][name].value)


def test_the_table_holds_ids_targets_predictions_and_slices_and_no_text(
    report: Report, prepared_run: tuple[Run, Prepared]
) -> None:
    table = pd.read_parquet(report.table)
    assert table["id"].to_list() == prepared_run[1].shards("test").ids.tolist()
    prediction = ["label", "probability_negative", "probability_neutral", "probability_positive"]
    slices = ["slice_department", "slice_age", "slice_recommended"]
    assert list(table) == ["id", "target_label", *slices, *prediction, *(f"core_tfidf_{name}" for name in prediction)]


def test_report_json_is_strict_json_of_the_documented_form(report: Report) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    values = json.loads(report.json.read_text(encoding="utf-8"), parse_constant=refuse)
    assert ", ".join(values) == (
        "schema, name, run_id, created, split, rows, primary, interval, scores, baselines, differences, slices, "
        "mistakes, counts, leakage, signatures, cleaning, run, drift"
    )
    assert values["scores"]["macro_f1"]["value"] == pytest.approx(report.scores["macro_f1"].value)
    assert values["interval"]["resamples"] == 200
    assert values["run_id"].startswith("run-1")
    assert check(values["run"]) == check(dict(report.run))


def test_slices_are_scored_with_their_counts(report: Report) -> None:
    by_column: dict[str, list[Any]] = {}
    for each in report.slices:
        by_column.setdefault(each.column, []).append(each)
        assert each.rows >= 20
        assert set(each.scores) == {"model", "core.tfidf"}
    assert sum(each.rows for each in by_column["age"]) == report.rows
    starts = [int(each.value.split(" to ")[0]) for each in by_column["age"]]
    assert starts == sorted(starts)
    assert {each.value for each in by_column["recommended"]} == {"True", "False"}
    sizes = [each.rows for each in by_column["department"]]
    assert sizes == sorted(sizes, reverse=True)


def test_mistakes_are_wrong_and_the_surest_come_first(report: Report) -> None:
    assert 0 < len(report.mistakes) <= 20
    assert all(each.target != each.label for each in report.mistakes)
    sure = [each.confidence for each in report.mistakes]
    assert sure == sorted(sure, reverse=True)
    assert any("<script>" in each.text for each in report.mistakes)


class Page(HTMLParser):
    """What a browser would be asked to do."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{name}={value}"
            if name == "id":
                self.ids.append(str(value))
            if name in {"href", "src", "xlink:href", "action"}:
                self.links.append(str(value))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_whole_and_runs_and_fetches_nothing(report: Report) -> None:
    text = report.html.read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "img", "iframe", "link", "object", "form"} & set(page.tags)
    assert "http:" not in text
    assert "https:" not in text
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert page.tags.count("svg") >= 6  # confusion, calibration, three columns of slices, curves


def test_what_data_wrote_is_shown_as_text(report: Report) -> None:
    words = "".join(Page(report.html.read_text(encoding="utf-8")).text)
    assert SCRIPT in words
    assert DEPARTMENT[:25] in words


def test_the_page_says_what_a_person_asks(report: Report) -> None:
    words = " ".join(" ".join(Page(report.html.read_text(encoding="utf-8")).text).split())
    for asked in ("core.tfidf", "macro-F1", "Confusion", "Calibration", "Leakage", "Training", "train.lr", "0.0005"):
        assert asked in words
    assert f"{report.scores['macro_f1'].value:.3f}" in words
    assert "test in train" in words


def test_summary_rows_begin_with_the_primary_score_and_leave_classes_out(report: Report) -> None:
    rows = report.summary_rows()
    assert [row.metric for row in rows] == ["macro_f1", "accuracy", "auc", "calibration_error"]
    assert rows[0].model == report.scores["macro_f1"]
    assert rows[0].difference == report.differences["core.tfidf"]["macro_f1"]


def test_a_private_head_shows_ids_and_no_text(
    predictor: Predicts, prepared_run: tuple[Run, Prepared], tmp_path: Path
) -> None:
    class Private(type(predictor.head)):  # type: ignore[misc]
        private = True

    head = Private(predictor.head.config)
    head.labels, head.label_weights = predictor.head.labels, predictor.head.label_weights  # type: ignore[attr-defined]
    run = predictor.run.model_copy(
        update={"evaluate": predictor.run.evaluate.model_copy(update={"resamples": 2, "baselines": (), "slices": ()})}
    )
    report = evaluate(Predicts(run, head, predictor.baseline), prepared_run[1], tmp_path)
    written = "".join(path.read_text(encoding="utf-8") for path in (report.html, report.json))
    assert str(report.mistakes[0].id) in written
    texts = [example["text"] for example in prepared_run[1].examples("test")]
    assert not [text for text in texts if text[:40] in written or text[:40].replace("'", "&#39;") in written]
    assert report.baselines == {}
    assert "No baseline" in written
    assert report.run_id is None


def test_two_baselines_of_one_type_are_both_there(
    predictor: Predicts, prepared_run: tuple[Run, Prepared], tmp_path: Path
) -> None:
    values = predictor.run.dump()
    weaker = {"type": "core.tfidf", "characters": [2, 2]}
    values["evaluate"] |= {"resamples": 5, "baselines": [weaker, weaker, "core.majority"], "slices": []}
    report = evaluate(Predicts(check(values), predictor.head, predictor.baseline), prepared_run[1], tmp_path)
    assert list(report.baselines) == ["core.tfidf", "core.tfidf#2", "core.majority"]
    assert math.isnan(report.baselines["core.majority"]["precision_neutral"].value)
    assert "Undefined on these rows: precision of negative of core.majority" in report.html.read_text(encoding="utf-8")
    assert json.loads(report.json.read_text())["baselines"]["core.majority"]["precision_neutral"]["value"] is None


def test_baselines_learn_from_what_the_model_learned_from(
    predictor: Predicts, prepared_run: tuple[Run, Prepared], tmp_path: Path
) -> None:
    values, prepared = predictor.run.dump(), prepared_run[1]
    values["train"]["learns_from"] = "train+valid"
    values["evaluate"] |= {"resamples": 2, "baselines": ["core.majority", "core.tfidf"], "slices": []}
    report = evaluate(predictor, prepared, tmp_path, run=check(values))
    own = TfidfBaseline(TfidfBaseline.Config())
    own.fit([*prepared.examples("train"), *prepared.examples("valid")], predictor.head)
    (first, *_), table = prepared.examples("test"), pd.read_parquet(report.table)
    expected = own.predict([{"text": first["text"]}])[0]["probabilities"]["positive"]
    assert table["core_tfidf_probability_positive"][0] == pytest.approx(expected)
    assert "fitted on the train and valid splits, as the model was" in report.html.read_text(encoding="utf-8")


def test_a_slice_that_no_example_carries_is_an_error_with_a_guess(
    predictor: Predicts, prepared_run: tuple[Run, Prepared], tmp_path: Path
) -> None:
    values = predictor.run.dump()
    values["evaluate"] |= {"baselines": [], "slices": ["departmant"]}
    with pytest.raises(DataError, match=r"evaluate.slices.*departmant.*Did you mean 'department'"):
        evaluate(Predicts(check(values), predictor.head, predictor.baseline), prepared_run[1], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_plots_take_any_name_of_a_class(tmp_path: Path) -> None:
    import numpy as np

    svg = plots.confusion(np.array([[3, 1], [0, 4]]), ["<script>alert(1)</script>", "$x^{2$"])
    assert "<script" not in svg
    assert "$x^{2$" in svg
