"""Records in and out: what is filled in, what is refused without being quoted, whose fault an answer is."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import field_validator

from heliostat.errors import PluginError, PredictError
from heliostat.heads.classification import Class
from heliostat.plugin import Record
from heliostat.predict.record import check_answers, check_examples


class Claim(Record):
    """A record with a check of its own, whose sentence quotes the value."""

    amount: float
    country: Literal["at", "de"] = "at"
    tags: list[str] = []  # noqa: RUF012  (pydantic copies it)

    @field_validator("tags")
    @classmethod
    def _known(cls, tags: list[str]) -> list[str]:
        if tags:
            raise ValueError(f"the tags {tags} are not known")
        return tags


def test_defaults_are_filled_in() -> None:
    assert check_examples([{"amount": 1}], Claim) == [{"amount": 1.0, "country": "at", "tags": []}]


def test_a_check_that_quotes_the_value_is_not_passed_on() -> None:
    with pytest.raises(PredictError) as caught:
        check_examples([{"amount": 1, "tags": ["SECRET"], "country": "SECRET"}], Claim)
    assert [problem.field for problem in caught.value.problems] == ["country", "tags"]
    assert "SECRET" not in str(caught.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), min_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(VALUES | st.dictionaries(st.sampled_from(["amount", "country", "tags", "\ud800"]), VALUES), max_size=3))
def test_whatever_comes_in_is_taken_or_refused(examples: list[Any]) -> None:
    rows: list[Any] = []
    refused: PredictError | None = None
    try:
        rows = check_examples(examples, Claim)
    except PredictError as error:
        refused = error
    if refused:
        assert {problem.index for problem in refused.problems} <= set(range(len(examples)))
        assert str(refused).encode("utf-8")
    else:
        assert [set(row) for row in rows] == [{"amount", "country", "tags"}] * len(examples)


@pytest.mark.parametrize("amount", [10**400, -(10**5000), "1e999", "nan"], ids=["large", "huge", "1e999", "nan"])
def test_a_number_that_no_float_holds_is_refused(amount: Any) -> None:
    with pytest.raises(PredictError, match="amount"):
        check_examples([{"amount": amount}], Claim)


@pytest.mark.parametrize(
    "answers",
    [
        [{"label": "glad", "probabilities": {"glad": float("nan")}}],
        [{"label": "glad"}],
        [{"label": "glad", "probabilities": {}, "extra": 1}],
        [],
    ],
)
def test_an_answer_that_breaks_its_record_is_not_the_callers_fault(answers: list[Any]) -> None:
    with pytest.raises(PluginError, match=r"tiny\.mood"):
        check_answers(answers, 1, Class, "tiny.mood")
