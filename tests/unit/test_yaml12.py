from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliostat.errors import RunError
from heliostat.yaml12 import parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("5e4", 5e4),
        (".5", 0.5),
        ("-2", -2),
        ("010", 10),
        ("0o10", 8),
        ("0x10", 16),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("", None),
        ("2020-01-01", "2020-01-01"),
        ("'1'", "1"),
        ("[1, 2.0, a]", [1, 2.0, "a"]),
        ("{a: 1, b: {c: no}}", {"a": 1, "b": {"c": "no"}}),
    ],
)
def test_core_schema_of_yaml_12(text: str, value: object) -> None:
    found = parse(text, "here")
    assert found == value
    assert type(found) is type(value)


def test_infinity_and_not_a_number_are_read_as_such() -> None:
    assert parse("-.inf", "") == -math.inf
    assert math.isnan(parse(".nan", ""))


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "{a: 1, a: 1}", "x:\n  a: 1\n  a: 2\n"])
def test_a_key_stands_once(text: str) -> None:
    with pytest.raises(RunError, match=r"a: stands twice \(again in line \d\)") as caught:
        parse(text, "run.yaml")
    assert caught.value.source == "run.yaml"


def test_broken_form_says_where() -> None:
    with pytest.raises(RunError) as caught:
        parse("train:\n  lr: [1, 2\n", "run.yaml")
    assert "line 3" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system ['true']", "!!python/name:os.system", "a: !custom 1"]
)
def test_no_tag_builds_an_object(text: str) -> None:
    with pytest.raises(RunError):
        parse(text, "run.yaml")


@given(st.integers())
def test_every_integer_reads_back(number: int) -> None:
    assert parse(str(number), "") == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_reads_back(number: float) -> None:
    found = parse(repr(number), "")
    assert isinstance(found, float)
    assert found == number
