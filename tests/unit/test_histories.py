"""Events -> the history of each user."""

from __future__ import annotations

from typing import Any

import pytest

from heliostat.adapters.histories import Histories
from heliostat.errors import RejectedRecord

EVENTS = [{"user": 7, "item": item, "time": time} for time, item in enumerate(["a", "b", "a", None, "c"])]


def histories(rows: list[dict[str, Any]], **settings: Any) -> list[dict[str, Any]]:
    return list(Histories(Histories.Config(**settings)).examples(iter(rows)))


def test_an_item_stands_where_it_came_first() -> None:
    assert histories(EVENTS) == [{"user": "7", "history": ["a", "b", "c"], "next": []}]


def test_repeats_are_kept_where_the_run_says_so() -> None:
    assert histories(EVENTS, repeats="all")[0]["history"] == ["a", "b", "a", "c"]


def test_short_histories_are_left_out_and_empty_ones_rejected() -> None:
    assert histories(EVENTS, shortest=4) == []
    with pytest.raises(RejectedRecord, match="item: is missing"):
        histories([{"user": 1, "item": None, "time": 1}])


def test_events_without_a_user_make_no_history() -> None:
    assert histories([{"user": None, "item": "a", "time": 1}]) == []


def test_groups_and_order_follow_the_settings() -> None:
    adapter = Histories(Histories.Config(user="who", item="what", time=None))
    assert (adapter.group_by, adapter.order_by) == ("who", None)
    assert adapter.columns() == {"user": "who", "item": "what"}
