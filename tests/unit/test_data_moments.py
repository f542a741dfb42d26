"""What is put in order by time: as times, or not at all."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from heliostat.component import Row
from heliostat.data.examples import grouped
from heliostat.data.moments import comparable
from heliostat.data.rejects import Place
from heliostat.data.split import SPLITS, assign
from heliostat.errors import DataError
from heliostat.run import DateSplit, LastSplit, TimeSplit

SCRAMBLED = [
    ["12/1/2010 8:26", "2/1/2011 9:00"],
    ["31.12.2023", "01.02.2024"],
    ["01-02-2024", "02-01-2024"],
    ["2023/9/1", "2023/10/1"],
    ["5 Jan 2024", "6 Feb 2023"],
    ["Mon, 05 Jan 2024", "Tue, 06 Feb 2023"],
    ["9", "10"],
]


def ordered(values: list[Any], column: str = "at") -> list[Any]:
    records: list[tuple[Place, Row]] = [
        (Place("e", place), {"user": 1, column: value}) for place, value in enumerate(values)
    ]
    [group] = grouped(records, "user", column)
    return [row[column] for _, row in group]


@pytest.mark.parametrize("texts", SCRAMBLED)
def test_times_whose_text_does_not_sort_are_refused(texts: list[str]) -> None:
    keys = texts * 5
    says = r"does not sort as it is meant. Write times as ISO 8601"
    with pytest.raises(DataError, match=f"data.split.column: 'at' holds .*{says}"):
        assign(TimeSplit(by="time", column="at"), keys)
    with pytest.raises(DataError, match=f"data.split.order: 'at' holds .*{says}"):
        assign(LastSplit(by="last", key="user", order="at"), [("a", key) for key in keys])
    with pytest.raises(DataError, match=f"the column 'at', which puts records in order, holds .*{says}"):
        ordered(keys)
    if texts != ["9", "10"]:
        with pytest.raises(DataError, match=says):
            assign(DateSplit(by="date", column="at", valid_from="1", test_from="2"), keys)


def test_times_of_several_offsets_are_instants() -> None:
    times = ["2024-01-01T10:00+09:00", "2024-01-01T02:00Z", "2024-01-01T00:00-05:00"]
    assert ordered(times[::-1]) == times
    found = assign(TimeSplit(by="time", column="at", valid=0.3, test=0.3), times[::-1])
    assert [SPLITS[side] for side in found] == ["test", "valid", "train"]
    found = assign(LastSplit(by="last", key="user", order="at"), [("a", time) for time in times[::-1]])
    assert [SPLITS[side] for side in found] == ["test", "valid", "train"]
    with pytest.raises(DataError, match=r"with an offset from UTC beside others \('2024.*Z' and '2024-01-01'\)"):
        assign(TimeSplit(by="time", column="at"), ["2024-01-01", "2024-01-01T02:00Z"])


def test_an_hour_that_comes_twice_keeps_its_order() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    before = datetime(2024, 10, 27, 2, 50, tzinfo=berlin)
    after = datetime(2024, 10, 27, 2, 10, tzinfo=berlin, fold=1)
    assert ordered([after, before]) == [before, after]


@pytest.mark.parametrize(
    "texts",
    [
        ["2020", "2021-05", "2021-05-02", "2021-05-02 08:00", "2021-05-02T09:00:00.5"],
        ["2019Q4", "2020Q1"],
        ["00009", "00010"],
        ["2020/01/05 08:00", "2020/02/05 07:00"],
        ["08:26", "09:05"],
    ],
)
def test_texts_of_one_form_sort_as_they_stand(texts: list[str]) -> None:
    values = comparable(texts[::-1], "x")
    assert sorted(values) == values[::-1]
    assert ordered(texts[::-1]) == texts


def test_words_order_a_group_and_no_split() -> None:
    assert ordered(["ten", None, 3, "a12", 2.5]) == [None, 2.5, 3, "a12", "ten"]
    with pytest.raises(DataError, match="holds 'unknown'"):
        assign(TimeSplit(by="time", column="at"), ["2020-01-01", "unknown"])
