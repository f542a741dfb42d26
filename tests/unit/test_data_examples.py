"""Raw records -> examples: what is checked, what is carried, what is rejected and with which words."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from heliostat.adapters.columns import Columns
from heliostat.component import Column, Row, Settings
from heliostat.data.examples import Example, ExampleMaker, Identities, grouped, needed_columns, plain
from heliostat.data.missing import check_columns, guess_column
from heliostat.data.rejects import Place, Reject
from heliostat.errors import DataError, RejectedRecord
from heliostat.heads.classification import Classification
from heliostat.plugin import DataAdapter

PLACE = Place("a.csv", 1)
SECRET = "patient 4711"


class Reviews(DataAdapter):
    class Config(Settings):
        text: Column = "review"

    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            if row["stars"] == 3:
                raise RejectedRecord("three stars are neither")
            yield {"text": row[self.config.text], "label": {1: "bad", 5: "good"}[int(row["stars"])]}


def made(record: Row, adapter: DataAdapter | None = None, carried: dict[str, str] | None = None) -> Any:
    maker = ExampleMaker(adapter or Reviews(), Classification(), dict.fromkeys(record, "string"), carried or {})
    (outcome,) = maker([(PLACE, record)])
    return outcome


def test_example_keeps_its_place_and_carries_columns() -> None:
    record = {"review": "x", "stars": 5, "shop": "north", "day": date(2020, 1, 2)}
    outcome = made(record, carried={"shop": "evaluate.slices", "day": "data.split.column", "label": "evaluate.slices"})
    assert outcome == Example(PLACE, {"text": "x", "label": "good"}, {"shop": "north", "day": "2020-01-02"})


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"review": "x", "stars": 3}, "three stars are neither"),
        ({"review": None, "stars": 5}, "text: is missing"),
        ({"review": 7, "stars": 5}, "text: Input should be a valid string"),
        ({"review": "x" * 20_001, "stars": 5}, "text: String should have at most 20000 characters"),
        ({"review": SECRET, "stars": None}, "TypeError in examples (test_data_examples.py, line"),
        ({"review": SECRET, "stars": 4}, "KeyError in examples (test_data_examples.py, line"),
        ({"review": "x", "stars": SECRET}, "ValueError in examples (test_data_examples.py, line"),
        ({"review": "\ud800", "stars": 5}, "holds what JSON cannot"),
    ],
)
def test_bad_record_is_rejected_without_its_text(record: Row, reason: str) -> None:
    outcome = made(record)
    assert isinstance(outcome, Reject)
    assert outcome.place == PLACE
    assert reason in outcome.reason or (record["review"] == "\ud800" and "text" in outcome.reason)
    assert SECRET not in outcome.reason


class Texts(DataAdapter):
    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        yield from (row["review"] for row in rows)


def test_adapter_that_gives_no_rows_is_refused() -> None:
    with pytest.raises(DataError, match=r"Texts.examples gave a str; an example is a dict"):
        made({"review": "x"}, Texts())


def test_missing_target_is_rejected() -> None:
    outcome = made(
        {"review": "x", "mark": None}, Columns(Columns.Config.model_validate({"text": "review", "label": "mark"}))
    )
    assert outcome == Reject(PLACE, "label: is missing")


def test_missing_column_says_which_was_meant_and_what_to_type() -> None:
    columns = {"review_body": "string", "star_rating": "int64", "helpful": "int64"}
    with pytest.raises(DataError, match=r"data.adapter.text: the source has no column 'review'.*review_body") as caught:
        check_columns(Reviews(), columns)
    assert "Set data.adapter.text=review_body." in str(caught.value)
    assert "Its columns: review_body, star_rating, helpful." in str(caught.value)


def test_column_that_the_code_reads_by_name() -> None:
    with pytest.raises(DataError, match=r"no column 'stars'. Did you mean 'Star Rating'.*Reviews reads it by"):
        made({"review": "x", "Star Rating": 5})


def test_missing_slice_and_split_columns_name_their_settings() -> None:
    with pytest.raises(DataError, match=r"evaluate.slices: the source has no column 'shops'. Did you mean 'shop'"):
        made({"review": "x", "stars": 5, "shop": "n"}, carried={"shops": "evaluate.slices"})
    with pytest.raises(DataError, match=r"data.split.key: .*Set data.split.key=shop"):
        made({"review": "x", "stars": 5, "shop": "n"}, carried={"shops": "data.split.key"})


@pytest.mark.parametrize(
    ("wanted", "columns", "guess"),
    [
        ("text", ["id", "review_body"], "review_body"),
        ("text", ["id", "TEXT"], "TEXT"),
        ("label", ["id", "sentiment"], "sentiment"),
        ("stars", ["id", "Rating"], "Rating"),
        ("review", ["reviews"], "reviews"),
        ("text", ["zz"], None),
    ],
)
def test_guess_by_letters_and_by_meaning(wanted: str, columns: list[str], guess: str | None) -> None:
    assert guess_column(wanted, dict.fromkeys(columns, "string")) == guess


class Histories(DataAdapter):
    group_by = "user"
    order_by = "at"

    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        yield {"items": [row["item"] for row in rows]}


def test_groups_are_whole_and_in_order() -> None:
    events = [("a", 2, "y"), ("b", 1, "z"), ("a", 1, "x"), ("a", None, "w")]
    records = [
        (Place("e", number), {"user": user, "at": at, "item": item}) for number, (user, at, item) in enumerate(events)
    ]
    groups = [list(Histories().examples(row for _, row in group)) for group in grouped(records, "user", "at")]
    assert groups == [[{"items": ["w", "x", "y"]}], [{"items": ["z"]}]]
    with pytest.raises(DataError, match=r"no column 'user'"):
        check_columns(Histories(), {"at": "int64", "item": "string"})


def test_columns_adapter_with_and_without_fields() -> None:
    named = Columns(Columns.Config.model_validate({"text": "body"}))
    assert list(named.examples(iter([{"body": "x", "more": 1}]))) == [{"text": "x"}]
    assert named.columns() == {"text": "body"}
    assert list(Columns().examples(iter([{"text": "x"}]))) == [{"text": "x"}]
    with pytest.raises(ValueError, match="string"):
        Columns.Config.model_validate({"text": 3})


def test_ids_are_unique_reproducible_and_count_repeats() -> None:
    rows: list[Row] = [{"text": "x"}, {"text": "y"}, {"text": "x"}, {"text": "x"}]
    identify, again = Identities(), Identities()
    ids = [identify(row) for row in rows]
    assert len(set(ids)) == 4
    assert identify.num_repeated == 2
    assert ids == [again(row) for row in rows]
    assert Identities()({"a": 1, "b": 2}) == Identities()({"b": 2, "a": 1})
    assert all(0 <= id < 2**64 for id in ids)


def test_ids_of_many_examples_and_their_repeats_stay_unique() -> None:
    identify = Identities()
    ids = [identify({"number": number % 15_000}) for number in range(20_000)]
    assert len(set(ids)) == 20_000
    assert identify.num_repeated == 5_000


def test_plain_values() -> None:
    row = {"a": np.int64(3), "b": np.array([1.5]), "c": Decimal("2.5"), "d": date(2020, 1, 2), "e": (1, 2)}
    assert plain(row) == {"a": 3, "b": [1.5], "c": 2.5, "d": "2020-01-02", "e": [1, 2]}
    for bad in (float("nan"), b"bytes", "\ud800"):
        with pytest.raises((TypeError, ValueError)):
            plain({"a": bad})


def test_columns_that_a_run_needs() -> None:
    assert needed_columns(["shop"], {"by": "last", "key": "user", "order": "at"}) == {
        "shop": "evaluate.slices", "user": "data.split.key", "at": "data.split.order",
    }  # fmt: skip
    assert needed_columns([], {"by": "hash", "key": None, "valid": 0.1, "test": 0.1}) == {}
