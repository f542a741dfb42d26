"""Splits: reproducible, apart, and refused with counts when one comes out empty."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from heliostat.component import Row
from heliostat.data.split import SPLITS, assign, key_of, unit
from heliostat.errors import DataError, RejectedRecord
from heliostat.run import ColumnSplit, DateSplit, HashSplit, LastSplit, SplitSettings, TimeSplit


def sides(split: SplitSettings, examples: list[Row], takes: tuple[str, ...] = ("text",)) -> list[str]:
    return [SPLITS[side] for side in assign(split, [key_of(split, example, takes) for example in examples])]


def test_hash_split_follows_the_text_and_not_the_order() -> None:
    examples: list[Row] = [{"text": f"text {number}"} for number in range(4000)]
    found = sides(HashSplit(), examples)
    assert found == sides(HashSplit(), examples[::-1])[::-1]
    counts = Counter(found)
    assert 340 < counts["valid"] < 460
    assert 340 < counts["test"] < 460


def test_texts_that_differ_in_case_and_space_stay_together() -> None:
    assert unit(["A  nice\tDress"]) == unit(["a nice dress "])
    assert unit(["a nice dress"]) != unit(["a nice skirt"])


def test_hash_split_by_a_carried_key() -> None:
    examples: list[Row] = [{"text": str(number), "patient": number % 40} for number in range(400)]
    found = sides(HashSplit(key=("patient",), valid=0.2, test=0.2), examples)
    by_patient: dict[int, set[str]] = {}
    for example, side in zip(examples, found, strict=True):
        by_patient.setdefault(example["patient"], set()).add(side)
    assert all(len(where) == 1 for where in by_patient.values())


def test_time_split_keeps_ties_together() -> None:
    days = [*["2020-01-01"] * 6, "2020-01-02", "2020-01-03", "2020-01-03", "2020-01-04"]
    found = sides(TimeSplit(by="time", column="day", valid=0.2, test=0.2), [{"day": day} for day in reversed(days)])
    assert found == ["test", "test", "test", "valid", *["train"] * 6]


def test_time_split_refuses_what_cannot_be_put_in_order() -> None:
    with pytest.raises(DataError, match=r"cannot be put in order \(int, str\)"):
        sides(TimeSplit(by="time", column="day"), [{"day": 1}, {"day": "x"}])


def test_date_split_cuts_at_the_named_days() -> None:
    split = DateSplit(by="date", column="day", valid_from="2004-04-01", test_from="2004-10-01")
    days = ["2004-10-01", "2004-09-30", "2004-04-01", "2004-03-31", "2006-01-01"]
    assert sides(split, [{"day": day} for day in days]) == ["test", "valid", "valid", "train", "test"]
    years = DateSplit(by="date", column="day", valid_from=2004, test_from=2005)
    assert sides(years, [{"day": day} for day in (2003, 2004, 2005)]) == ["train", "valid", "test"]


def test_date_split_refuses_days_of_another_kind_and_in_wrong_order() -> None:
    split = DateSplit(by="date", column="day", valid_from="2004-04-01", test_from="2004-10-01")
    with pytest.raises(DataError, match=r"another kind \(int\) than valid_from and test_from \(str\)"):
        sides(split, [{"day": 2004}])
    for low, high in (("2005", "2004"), (2004, "2005")):
        with pytest.raises(ValueError, match="valid_from must be before test_from"):
            DateSplit(by="date", column="day", valid_from=low, test_from=high)


def test_last_split_takes_the_newest_of_each_user() -> None:
    examples: list[Row] = [
        {"user": user, "at": at} for user, at in [("a", 3), ("b", 1), ("a", 1), ("a", 2), ("b", 2), ("a", 0)]
    ]
    assert sides(LastSplit(by="last", key="user", order="at"), examples) == [
        "test", "train", "train", "valid", "train", "train",
    ]  # fmt: skip


def test_column_split_and_its_refusal_of_other_names() -> None:
    split = ColumnSplit(by="column", column="part")
    assert sides(split, [{"part": name} for name in ("test", "train", "valid")]) == ["test", "train", "valid"]
    for wrong, meant in (("dev", "valid"), ("validation", "valid"), ("Train", "train"), ("holdout", "test")):
        with pytest.raises(DataError, match=f"holds '{wrong}'.*Did you mean '{meant}'"):
            key_of(split, {"part": wrong}, ())


@pytest.mark.parametrize(
    ("split", "values"),
    [
        (TimeSplit(by="time", column="at"), {"at": None}),
        (LastSplit(by="last", key="user", order="at"), {"at": 1}),
        (ColumnSplit(by="column", column="part"), {}),
    ],
)
def test_example_without_its_split_value_is_rejected(split: SplitSettings, values: Row) -> None:
    with pytest.raises(RejectedRecord, match=r"is missing, and data.split needs it"):
        key_of(split, values, ())


@pytest.mark.parametrize(
    ("split", "keys", "message"),
    [
        (HashSplit(), [0.5] * 3, r"falls into valid and test \(train 3, valid 0, test 0\). Raise data.split.valid"),
        (TimeSplit(by="time", column="at"), [1] * 9, r"into train and valid \(train 0, valid 0, test 9\).*moments"),
        (
            DateSplit(by="date", column="at", valid_from=5, test_from=7),
            [1, 6],
            r"falls into test \(train 1, valid 1, test 0\). Move data.split.valid_from",
        ),
        (LastSplit(by="last", key="u", order="at"), [("a", 1), ("b", 1)], "Users need three examples"),
        (ColumnSplit(by="column", column="part"), ["train", "test"], r"falls into valid .* data.split.by=hash"),
    ],
)
def test_empty_split_is_refused_with_counts(split: SplitSettings, keys: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        assign(split, keys)
