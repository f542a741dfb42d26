"""Gradient boosting as a baseline: over every kind of field that a record has, with gaps and values never seen."""

from __future__ import annotations

from datetime import date
from typing import ClassVar

import numpy as np
import pytest

from heliostat.baselines.boosting import BoostingBaseline
from heliostat.component import Row
from heliostat.errors import DataError
from heliostat.heads.masked_lm import MaskedLM
from heliostat.heads.regression import Regression
from heliostat.heads.risk import Risk
from heliostat.plugin import Record


class Asked(Record):
    amount: float | None = None
    count: int | None = None
    state: str | None = None
    sure: bool | None = None
    day: date | None = None


class LoanRisk(Risk):
    takes: ClassVar[type[Record]] = Asked


class LoanValue(Regression):
    takes: ClassVar[type[Record]] = Asked


def rows(count: int = 400) -> list[Row]:
    rng = np.random.default_rng(1)
    made: list[Row] = []
    for _ in range(count):
        amount, state = float(rng.random()), str(rng.choice(["OH", "FL"]))
        made.append(
            {
                "amount": amount if rng.random() < 0.9 else None,
                "count": int(rng.integers(9)),
                "state": state,
                "sure": bool(rng.random() < 0.5),
                "day": "2004-05-01",
                "label": "yes" if (amount > 0.5) == (state == "OH") else "no",
                "value": amount,
            }
        )
    return made


def test_it_learns_what_two_fields_say_together() -> None:
    baseline = BoostingBaseline(BoostingBaseline.Config(trees=40))
    baseline.fit(rows(), LoanRisk())
    answers = baseline.predict(rows())
    right = np.mean([answer["label"] == row["label"] for answer, row in zip(answers, rows(), strict=True)])
    assert right > 0.9
    assert all(sum(answer["probabilities"].values()) == pytest.approx(1.0) for answer in answers)
    assert list(answers[0]["probabilities"]) == ["no", "yes"]


def test_what_is_new_or_missing_is_answered() -> None:
    baseline = BoostingBaseline(BoostingBaseline.Config(trees=5))
    baseline.fit(rows(), LoanRisk())
    assert len(baseline.predict([{}, {"state": "ZZ", "amount": None, "day": date(2099, 1, 1)}])) == 2
    assert baseline.predict([]) == []


def test_a_number_is_a_regression() -> None:
    baseline = BoostingBaseline(BoostingBaseline.Config(trees=40, fields=("amount", "state")))
    baseline.fit(rows(), LoanValue())
    found = [answer["value"] for answer in baseline.predict(rows()[:50])]
    known = [(value, row["value"]) for value, row in zip(found, rows(), strict=False) if row["amount"] is not None]
    assert np.corrcoef(np.array(known).T)[0, 1] > 0.95


def test_a_head_without_label_or_value_is_refused() -> None:
    with pytest.raises(DataError, match=r"core\.boosting learns the field"):
        BoostingBaseline().fit(rows(), MaskedLM())
