"""Heads that are no classifiers are evaluated too, and one without metrics is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from heliostat.component import Row
from heliostat.data.prepared import Prepared
from heliostat.errors import DataError
from heliostat.evaluate import Interval, evaluate
from heliostat.plugin import Metric, Record, TaskHead
from heliostat.run import Run

REVIEWS = Path(__file__).parents[2] / "plugins/sentiment/heliostat_sentiment/data/reviews.parquet"


class Answer(Record):
    length: float


class Length(TaskHead):
    """A head that is no classifier: it guesses a number."""

    takes = Answer
    gives = Answer
    target_fields = ("label",)

    def module(self, spec: Any) -> Any:
        raise NotImplementedError

    def metrics(self) -> dict[str, Metric]:
        return {"share_short": lambda table: float((table["length"] < 200).mean())}


class Measures(NamedTuple):
    run: Run
    head: TaskHead

    def predict(self, examples: Sequence[Row]) -> list[Row]:
        return [{"length": 100.0 + place} for place, _ in enumerate(examples)]


@pytest.fixture(scope="module")
def prepared_run(
    tmp_path_factory: pytest.TempPathFactory, evaluated_run: Callable[[Path], Iterator[tuple[Run, Prepared]]]
) -> Iterator[tuple[Run, Prepared]]:
    folder = tmp_path_factory.mktemp("evaluate")
    reviews = pd.read_parquet(REVIEWS).iloc[::60].dropna(subset=["review"])
    labels = pd.cut(reviews["rating"], [0, 2, 3, 5], labels=["negative", "neutral", "positive"]).astype(str)
    reviews.assign(label=labels).to_parquet(folder / "reviews.parquet")
    yield from evaluated_run(folder / "reviews.parquet")


def test_a_head_that_is_no_classifier_has_a_report_too(prepared_run: tuple[Run, Prepared], tmp_path: Path) -> None:
    run, prepared = prepared_run
    report = evaluate(Measures(run, Length()), prepared, tmp_path)
    assert report.primary == "share_short"
    assert isinstance(report.scores["share_short"], Interval)
    page = report.html.read_text(encoding="utf-8")
    assert "Confusion" not in page
    assert "share short" in page


def test_a_head_without_metrics_is_refused(prepared_run: tuple[Run, Prepared], tmp_path: Path) -> None:
    run, prepared = prepared_run

    class Silent(Length):
        def metrics(self) -> dict[str, Metric]:
            return {}

    with pytest.raises(DataError, match="names no metrics"):
        evaluate(Measures(run, Silent()), prepared, tmp_path)
