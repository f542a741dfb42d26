"""The sentiment plugin: its data, its adapters on edge rows, its head, and every run it carries."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from heliostat import run as runs
from heliostat.errors import RejectedRecord, RunError
from heliostat.plugin import DataAdapter
from heliostat.registry import find, package_folder

FOLDER = package_folder("sentiment")
assert FOLDER is not None
RUNS = sorted(name for name in runs.runs() if name.startswith("sentiment/"))


def adapter(name: str, **settings: Any) -> DataAdapter:
    kind = find(f"sentiment.{name}", DataAdapter)
    return kind(kind.Config(**settings))


def one(source: DataAdapter, row: dict[str, Any]) -> dict[str, Any]:
    (example,) = source.examples(iter([row]))
    return example


def review(**fields: Any) -> dict[str, Any]:
    return {"title": "Nice", "review": "Fits well.", "rating": 5, **fields}


@pytest.fixture(scope="module")
def reviews() -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    assert FOLDER is not None
    rows: list[dict[str, Any]] = pq.read_table(FOLDER / "data" / "reviews.parquet").to_pylist()
    return rows


def test_the_carried_reviews_are_those_that_the_readme_counts(reviews: list[dict[str, Any]]) -> None:
    assert len(reviews) == 22_641
    assert Counter(row["rating"] for row in reviews) == {1: 821, 2: 1_549, 3: 2_823, 4: 4_908, 5: 12_540}
    assert all(row["review"] for row in reviews)
    assert list(reviews[0]) == ["clothing_id", "title", "review", "rating", "recommended", "age", "department"]


def test_every_carried_review_becomes_one_example(reviews: list[dict[str, Any]]) -> None:
    source = adapter("reviews")
    examples = [one(source, row) for row in reviews]
    assert Counter(example["label"] for example in examples) == {
        "negative": 2_370,
        "neutral": 2_823,
        "positive": 17_448,
    }
    assert not any("\n" in example["text"] for example in examples)


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("Nice", "Nice. Fits well."),
        ("Nice!", "Nice! Fits well."),
        ("  Nice \n", "Nice. Fits well."),
        (None, "Fits well."),
        ("  ", "Fits well."),
    ],
)
def test_a_title_stands_before_the_text_as_a_sentence(title: str | None, text: str) -> None:
    assert one(adapter("reviews"), review(title=title))["text"] == text


@pytest.mark.parametrize("text", [None, "", " \n\t "])
def test_a_review_without_text_is_rejected(text: str | None) -> None:
    with pytest.raises(RejectedRecord, match="review: is missing"):
        one(adapter("reviews"), review(review=text))


@pytest.mark.parametrize(
    ("stars", "reason"), [(None, "missing"), (0, "not between"), (6, "not between"), (True, "no number")]
)
def test_stars_that_say_nothing_are_rejected(stars: Any, reason: str) -> None:
    with pytest.raises(RejectedRecord, match=f"rating: .*{reason}"):
        one(adapter("reviews"), review(rating=stars))


@pytest.mark.parametrize("stars", ["five", float("nan")])
def test_stars_that_are_no_number_reject_their_record_alone(stars: Any) -> None:
    with pytest.raises((RejectedRecord, ValueError)):
        one(adapter("reviews"), review(rating=stars))


@pytest.mark.parametrize(
    ("stars", "label"), [(1, "negative"), (2, "negative"), (3, "neutral"), ("4", "positive"), (5, "positive")]
)
def test_stars_become_a_polarity(stars: Any, label: str) -> None:
    assert one(adapter("reviews"), review(rating=stars))["label"] == label


def test_columns_scale_and_thresholds_are_settings() -> None:
    source = adapter("reviews", text="body", title=None, stars="score", range=(0, 10), negative_to=4, positive_from=7.5)
    assert one(source, {"body": "So so.", "score": 7})["label"] == "neutral"
    assert source.columns() == {"text": "body", "stars": "score"}
    assert adapter("reviews").columns() == {"text": "review", "title": "title", "stars": "rating"}


def test_thresholds_out_of_order_are_a_mistake_of_the_run() -> None:
    with pytest.raises(RunError, match="negative_to"):
        runs.load("sentiment/tiny", ["data.adapter.negative_to=4"])


@pytest.mark.parametrize(
    ("mean", "label"), [(-4, "negative"), (-0.5, "negative"), (-0.49, "neutral"), (0.3, "neutral"), (0.5, "positive")]
)
def test_the_mean_of_the_raters_becomes_a_polarity(mean: float, label: str) -> None:
    row = {"id": "12_3", "rating": mean, "text": " Well  then. ", "domain": "amazonReviewSnippets_GroundTruth"}
    assert one(adapter("rated"), row) == {
        "text": "Well then.", "label": label, "domain": "products", "document": "products 12"
    }  # fmt: skip


@pytest.mark.parametrize(("field", "value"), [("rating", None), ("rating", 4.5), ("text", None)])
def test_a_sentence_without_text_or_mean_is_rejected(field: str, value: Any) -> None:
    row = {"id": "1", "rating": 1.0, "text": "Good.", "domain": "tweets_GroundTruth", field: value}
    with pytest.raises(RejectedRecord, match=field):
        one(adapter("rated"), row)


def test_the_plugin_carries_its_runs() -> None:
    assert {
        "sentiment/tiny",
        "sentiment/default",
        "sentiment/pretrained",
        "sentiment/quickstart",
        "sentiment/rated",
    } <= set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_every_run_checks_and_round_trips(name: str) -> None:
    run = runs.load(name)
    assert runs.check(run.dump()) == run
    if run.head.type == "sentiment.polarity":
        assert run.head.build().labels == ("negative", "neutral", "positive")


def test_samples_fit_the_record_that_the_head_takes() -> None:
    head = runs.load("sentiment/tiny").head.build()
    for sample in head.samples:
        assert head.takes.model_validate(sample).model_dump() == sample


def test_tiny_is_prepared_into_the_splits_that_it_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from heliostat.ingest import prepare

    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    prepared = prepare(runs.load("sentiment/tiny", ["data.engine=local"]))
    assert sum(prepared.counts.values()) == 600
    assert {example["label"] for example in prepared.examples("train")} == {"negative", "neutral", "positive"}
    assert all(example["department"] for example in prepared.examples("test"))
