"""What prepared data are named after: settings that shape training alone are no part of it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from heliostat.data.key import settings_key
from heliostat.data.prepare import prepare
from heliostat.run import Run, check, place

TOY: dict[str, Any] = {
    "name": "toy",
    "data": {"adapter": "core.columns", "source": "rows.csv", "split": {"valid": 0.2, "test": 0.1}},
    "encoder": {"type": "core.text", "preset": "tiny", "vocab_size": 300, "dropout": 0.1},
    "head": "core.classification",
}


def run(**changed: Any) -> Run:
    return check(
        place({**TOY, "head": {"type": TOY["head"]}}, {key.replace("__", "."): value for key, value in changed.items()})
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"encoder__dropout": 0.3},
        {"head__dropout": 0.3},
        {"head__loss": "focal"},
        {"head__label_smoothing": 0.1},
        {"head__class_weights": "balanced"},
        {"head__decide": "macro_f1"},
        {"train__lr": 1e-3},
    ],
)
def test_what_shapes_training_alone_is_no_part_of_the_key(changed: dict[str, Any]) -> None:
    assert settings_key(run(**changed)) == settings_key(run())


@pytest.mark.parametrize(
    "changed",
    [
        {"encoder__dropout": None},  # what it stands for is found out when the encoder is fitted
        {"encoder__max_tokens": 64},
        {"encoder__vocab_size": 400},
        {"head__labels": ["a", "b"]},
        {"head__lexical": {}},
        {"data__limit": 10},
        {"data__clean": {"normalise": ["space"]}},
    ],
)
def test_what_shapes_the_data_is(changed: dict[str, Any]) -> None:
    assert settings_key(run(**changed)) != settings_key(run())


def test_of_a_linear_model_beside_the_network_the_weight_comes_later() -> None:
    first, second, third = (run(head__lexical=each) for each in ({}, {"weight": 4.0}, {"strength": 0.1}))
    assert settings_key(first) == settings_key(second) != settings_key(third)


def test_runs_that_share_data_keep_their_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *([f"row {n} of many", "ab"[n % 3 == 0]] for n in range(60))])
    first = run(data__source=str(tmp_path / "rows.csv"))
    other = run(data__source=str(tmp_path / "rows.csv"), encoder__dropout=0.4, head__class_weights="balanced")
    prepared = prepare(first)
    assert prepare(other).folder == prepared.folder
    here, there = prepared.parts(first), prepared.parts(other)
    assert set(here.head.label_weights) == {1.0}
    assert len(set(there.head.label_weights)) == 2
    rates = [parts.encoder.module().transformer.config.hidden_dropout_prob for parts in (here, there)]
    assert rates == [0.1, 0.4]
