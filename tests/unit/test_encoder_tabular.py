"""The table encoder on rows with everything that rows can have: gaps, absurd numbers, unseen values, other days."""

from __future__ import annotations

import json
import math
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heliostat.component import Row
from heliostat.data.collate import collate
from heliostat.encoders.tabular import TabularEncoder
from heliostat.errors import DataError
from heliostat.features import TabularFeatures

SETTINGS: dict[str, Any] = {
    "numbers": ["amount", "guaranteed/amount"],
    "categories": ["state", "industry:2", "state+kind"],
    "dates": ["day"],
    "texts": ["name"],
    "rates": ["bank"],
    "target": "label",
    "dim": 16,
    "layers": 1,
    "bins": 4,
    "min_count": 3,
    "trend_years": 2.0,
}


def rows(count: int = 60) -> list[Row]:
    """Rows of two banks, of which one fails always, and of a few that occur once."""
    made: list[Row] = []
    for place in range(count):
        bank = f"once {place}" if place % 10 == 9 else ("good" if place % 2 else "bad")
        made.append(
            {
                "amount": float(1000 * (place + 1)),
                "guaranteed": None if place % 7 == 0 else 500.0 * (place + 1),
                "state": "OH" if place % 3 else "FL",
                "industry": "7221" if place % 2 else "4451",
                "kind": "new",
                "day": f"200{place % 5}-0{place % 9 + 1}-15",
                "name": "Corner Cafe" if place % 2 else None,
                "bank": bank,
                "label": "bad" if bank == "bad" else "good",
            }
        )
    return made


@pytest.fixture
def encoder() -> TabularEncoder:
    made = TabularEncoder(TabularEncoder.Config(**SETTINGS))
    made.fit(rows())
    return made


def features(encoder: TabularEncoder, asked: list[Row]) -> TabularFeatures:
    torch.manual_seed(7)
    module = encoder.module().eval()
    with torch.no_grad():
        found = module(collate(encoder.encode(asked), np.zeros(len(asked), dtype=np.uint64)))
    assert isinstance(found, TabularFeatures)
    return found


def test_each_row_gets_one_finite_vector(encoder: TabularEncoder) -> None:
    found = features(encoder, rows())
    assert found.pooled.shape == (60, 16)
    assert bool(found.pooled.isfinite().all())
    assert found.fields == ("amount", "guaranteed", "state", "industry", "kind", "day", "name", "bank")


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"amount": None, "state": None, "day": None, "name": None, "bank": None, "industry": None},
        {"amount": math.inf},
        {"amount": -math.inf, "guaranteed": math.nan},
        {"amount": 1e300},
        {"amount": -1e300, "guaranteed": 1e300},
        {"amount": 0.0},
        {"amount": 10**400},
        {"state": "XX", "industry": "99", "bank": "a bank nobody knows", "kind": 3.5},
        {"day": "9999-12-31"},
        {"day": "0001-01-01"},
        {"day": date(2004, 5, 1)},
        {"name": "", "bank": "  "},
        {"name": "語 \ud800 " * 400},
    ],
)
def test_whatever_a_field_holds_the_answer_is_finite(encoder: TabularEncoder, odd: Row) -> None:
    asked = {**rows()[1], **odd} if odd else {"amount": 5.0}
    assert bool(features(encoder, [asked]).pooled.isfinite().all())


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"amount": "many"}, "'amount' is read as a number"),
        ({"day": "yesterday"}, "'day' is read as a date"),
        ({"state": ["OH"]}, "'state' is read as a category"),
    ],
)
def test_a_value_of_another_kind_is_refused_without_being_shown(
    encoder: TabularEncoder, odd: Row, message: str
) -> None:
    with pytest.raises(DataError, match=message) as refused:
        encoder.encode([{**rows()[0], **odd}])
    assert "many" not in str(refused.value).replace("read as", "")
    assert "yesterday" not in str(refused.value)


def test_an_example_without_any_field_is_refused(encoder: TabularEncoder) -> None:
    with pytest.raises(DataError, match="only text"):
        encoder.encode([{"text": "nothing of this"}])


def test_infinite_reads_as_missing_and_absurd_as_the_last_bin(encoder: TabularEncoder) -> None:
    base = rows()[1]
    asked = [{**base, "amount": value} for value in (math.inf, None, 1e300, 60_000.0)]
    infinite, missing, absurd, largest = features(encoder, [{**row, "guaranteed": None} for row in asked]).pooled
    assert torch.equal(infinite, missing)
    assert torch.equal(absurd, largest)


def test_a_trend_is_followed_and_then_stands_still(encoder: TabularEncoder) -> None:
    newest = date(2004, 9, 15)  # of the train rows; the others fall on its weekday and month
    asked = [{**rows()[1], "day": newest + timedelta(days=days)} for days in (0, 364, 728, 1827)]
    now, soon, later, far = features(encoder, asked).pooled
    assert torch.allclose(later - now, 2 * (soon - now), atol=5e-3)
    assert torch.allclose(far, later, atol=1e-2)
    assert not torch.allclose(now, soon, atol=1e-4)


def test_rates_in_training_know_nothing_of_the_examples_own_fold() -> None:
    alone = [{"bank": f"bank {place // 2}", "x": place, "label": "bad" if place % 2 else "good"} for place in range(40)]
    encoder = TabularEncoder(TabularEncoder.Config(numbers=["x"], rates=["bank"], target="label", dim=8, smoothing=1.0))
    encoder.fit(alone)
    told = np.array([encoded["rates"] for encoded in encoder.encode(alone)])
    whole, others = told[:, 0], told[:, 2]
    bad = np.array([row["label"] == "bad" for row in alone])
    assert np.allclose(whole, 0.0, atol=1e-6)  # each bank has one of both
    # The rate is that of the second class, `good`: what is left of its bank without a bad example is good, or nothing.
    assert (others[bad] >= -1e-6).all(), "a bad example must not see that it is bad"
    assert (others[~bad] <= 1e-6).all()
    assert others[bad].max() > 0.1


def test_rates_of_three_classes_and_of_a_number() -> None:
    three = [{"bank": "a", "label": name} for name in ("x", "y", "z", "z")] * 5
    encoder = TabularEncoder(TabularEncoder.Config(rates=["bank"], target="label", dim=8))
    encoder.fit(three)
    assert encoder.encode(three[:1])[0]["rates"].shape == (8,)  # type: ignore[union-attr]
    number = TabularEncoder(TabularEncoder.Config(rates=["bank"], target="value", dim=8, smoothing=1e-6))
    number.fit([{"bank": "a", "value": 10.0}, {"bank": "a", "value": 20.0}, {"bank": "b", "value": 0.0}] * 4)
    assert number.encode([{"bank": "a"}])[0]["rates"][0] == pytest.approx(15.0, abs=1e-3)  # type: ignore[index]


def test_rates_refuse_a_target_that_is_none() -> None:
    encoder = TabularEncoder(TabularEncoder.Config(rates=["bank"], target="label"))
    with pytest.raises(DataError, match="target 'label'"):
        encoder.fit([{"bank": "a"}])


def test_without_a_field_is_as_if_it_were_missing(encoder: TabularEncoder) -> None:
    asked = rows()[:8]
    found = features(encoder, asked)
    assert found.without is not None
    with torch.no_grad():
        for field in found.fields:
            gone = features(encoder, [{**row, field: None} for row in asked]).pooled
            assert torch.allclose(found.without(field), gone, atol=1e-5), field


def test_save_and_load_encode_the_same(encoder: TabularEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    again = TabularEncoder(encoder.config)
    again.load(tmp_path)
    for one, other in zip(encoder.encode(rows()), again.encode(rows()), strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key], equal_nan=key == "numbers") for key in one)
    json.loads((tmp_path / "table.json").read_text(), parse_constant=pytest.fail)  # plain JSON: no NaN


def test_training_hides_fields_at_random_and_gradients_are_finite(encoder: TabularEncoder) -> None:
    torch.manual_seed(1)
    module = encoder.module().train()
    batch = collate(encoder.encode(rows()), np.arange(60, dtype=np.uint64))
    first, second = module(batch).pooled, module(batch).pooled
    assert not torch.equal(first, second)
    first.square().mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in module.parameters() if p.grad is not None)


def test_a_column_without_values_and_one_that_does_not_vary_are_no_error() -> None:
    encoder = TabularEncoder(TabularEncoder.Config(numbers=["none", "same"], dim=8))
    encoder.fit([{"none": None, "same": 1.0}] * 5)
    assert bool(features(encoder, [{"same": 1.0}, {"none": 3.0, "same": 2.0}]).pooled.isfinite().all())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "names no field"),
        ({"rates": ["bank"]}, "belong together"),
        ({"numbers": ["a"], "target": "label"}, "belong together"),
        ({"numbers": ["a/b/c"]}, "pattern"),
        ({"numbers": ["a"], "trend_years": 1.0}, "no effect"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TabularEncoder.Config(**settings)
