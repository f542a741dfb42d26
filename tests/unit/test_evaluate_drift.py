"""Drift between the train split and the evaluated rows, by field."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from heliostat.component import Row
from heliostat.evaluate.drift import MOVED, STEADY, drift
from heliostat.heads.risk import Risk
from heliostat.plugin import Record


class Asked(Record):
    amount: float | None = None
    state: str | None = None
    flag: bool | None = None
    text: str | None = None


class Head(Risk):
    takes: ClassVar[type[Record]] = Asked


def rows(count: int, shift: float = 0.0, seed: int = 0, **fixed: Any) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [
        {
            "amount": float(rng.normal(shift)),
            "state": str(rng.choice(["OH", "FL"])),
            "flag": bool(rng.random() < 0.5),
            "text": f"a text of its own {rng.random()}",
            "label": "yes" if rng.random() < 0.2 else "no",
            **fixed,
        }
        for _ in range(count)
    ]


def test_rows_of_one_population_are_steady_and_free_text_is_left_out() -> None:
    found = drift(rows(4000), rows(4000, seed=1), Head())
    assert found[0].field == "label"
    assert {each.field for each in found} == {"label", "amount", "state", "flag"}
    assert all(each.psi < STEADY / 5 for each in found)


def test_a_number_that_moved_stands_first_and_has_its_index() -> None:
    found = [each for each in drift(rows(20_000), rows(20_000, shift=1.0, seed=1), Head()) if not each.is_target]
    assert found[0].field == "amount"
    assert found[0].psi == pytest.approx(1.0, abs=0.15)  # of two normals one apart, cut into ten
    assert found[1].psi < STEADY


@pytest.mark.parametrize("gone", [{"state": "a new one"}, {"state": None}, {"amount": None}])
def test_values_that_are_new_or_missing_count(gone: Row) -> None:
    field = next(iter(gone))
    found = {each.field: each for each in drift(rows(2000), rows(2000, seed=1, **gone), Head())}
    assert found[field].psi > MOVED
    assert found[field].most


def test_a_target_that_moved_is_told() -> None:
    found = drift(rows(2000), rows(2000, seed=1, label="yes"), Head())
    assert found[0].is_target
    assert found[0].psi > MOVED


def test_a_task_of_texts_alone_has_no_drift() -> None:
    texts = [{"text": str(place), "label": "yes"} for place in range(100)]
    assert drift(texts, texts, Head()) == []
