"""A planted leak is named, clean columns are not, whatever the leak looks like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from heliostat.component import Row
from heliostat.data.suspects import enough, suspects
from heliostat.heads.regression import Regression
from heliostat.heads.risk import Risk
from heliostat.plugin import Record


class Loan(Record):
    amount: float | None = None
    state: str | None = None
    name: str | None = None
    term: float | None = None
    day_of_loss: str | None = None


class LoanRisk(Risk):
    takes: ClassVar[type[Record]] = Loan


class LoanValue(Regression):
    takes: ClassVar[type[Record]] = Loan


def clean(count: int = 2000) -> Iterator[Row]:
    """Loans whose amount says something of their end, and no column says nearly all."""
    rng = np.random.default_rng(5)
    for place in range(count):
        amount = float(rng.uniform(0, 100))
        failed = rng.random() < 0.1 + 0.004 * amount
        yield {
            "amount": amount if rng.random() < 0.95 else None,
            "state": str(rng.choice(["OH", "FL", "NY"])),
            "name": f"a name that stands once {place}",
            "label": "yes" if failed else "no",
            "noise": rng.random(),
        }


def planted(kind: str) -> list[Row]:
    rows = []
    for row in clean():
        failed, noise = row["label"] == "yes", row["noise"]
        leak: Row = {
            "number": {"term": 30 + 40 * noise if failed else 60 + 40 * noise},
            "gap": {"day_of_loss": "2008-01-01" if failed else None},
            "category": {"state": "closed" if failed and noise < 0.95 else row["state"]},
            "not in order": {"term": float(int(noise * 50) * 2 + failed)},
        }[kind]
        rows.append({**row, **leak})
    return rows


def test_clean_data_raise_no_suspicion() -> None:
    assert suspects(list(clean()), LoanRisk()) == []


@pytest.mark.parametrize(
    ("kind", "field"), [("number", "term"), ("gap", "day_of_loss"), ("category", "state"), ("not in order", "term")]
)
def test_a_planted_leak_is_named(kind: str, field: str) -> None:
    found = suspects(planted(kind), LoanRisk())
    assert [(each.field, each.measure) for each in found] == [(field, "AUC of yes")]
    assert found[0].score > 0.9


def test_a_number_that_is_the_target_in_another_unit_is_named() -> None:
    rows: list[Row] = [{**row, "value": row["noise"], "term": 100 * row["noise"]} for row in clean()]
    assert [(each.field, each.measure) for each in suspects(rows, LoanValue())] == [("term", "R2")]


@pytest.mark.parametrize("label", ["yes", None])
def test_targets_that_teach_nothing_are_passed_over(label: Any) -> None:
    assert suspects([{**row, "label": label} for row in clean(200)], LoanRisk()) == []


def test_few_rows_tell_nothing() -> None:
    assert suspects(planted("gap")[:50], LoanRisk()) == []


def test_the_real_column_that_leaks_is_named_and_those_known_in_time_are_not() -> None:
    """The term of the loans that come with the finance plugin: refused by its adapter, and found without it, too."""

    class RealLoan(Record):
        GrAppv: float | None = None
        NoEmp: float | None = None
        State: str | None = None
        Bank: str | None = None
        Term: float | None = None

    class RealRisk(Risk):
        takes: ClassVar[type[Record]] = RealLoan

    path = Path(__file__).parents[2] / "plugins/finance/heliostat_finance/data/loans.parquet"
    loans = pd.read_parquet(path, columns=[*RealLoan.model_fields, "MIS_Status"]).astype(object)
    loans = loans.where(loans.notna(), None)
    records: Any = loans.to_dict("records")
    rows: list[Row] = [{**row, "label": "yes" if row["MIS_Status"] == "CHGOFF" else "no"} for row in records]
    assert [each.field for each in suspects(rows, RealRisk())] == ["Term"]


def test_enough_of_many_examples_are_read_evenly() -> None:
    assert list(enough(range(30), 30)) == list(range(30))
    some = list(enough(range(100_000), 100_000))
    assert len(some) <= 40_000
    assert some == list(range(0, 100_000, 3))


def test_rows_without_one_target_are_not_read() -> None:
    class NoTarget(LoanRisk):
        target_fields = ()

    rows = iter(clean())
    assert suspects(rows, NoTarget()) == []
    assert len(list(rows)) == len(list(clean()))
