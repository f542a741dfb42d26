"""Sequences that are cut within each example: per-user temporal shares, and leave-last-out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from heliostat.data.split import parts_of
from heliostat.errors import DataError, RunError
from heliostat.run import SequenceSplit, check, load, protocol


def cut(length: int, **settings: Any) -> dict[str, tuple[int, int]]:
    split = SequenceSplit(by="sequence", **settings)
    example = {"user": "u", "history": [f"i{n}" for n in range(length)], "next": []}
    found = {}
    for name, values in parts_of(split, example):
        assert values["history"] + values["next"] == example["history"][: len(values["history"] + values["next"])]
        assert values["user"] == "u"
        found[name] = (len(values["history"]), len(values["next"]))
    return found


def test_shares_of_each_sequence() -> None:
    assert cut(10, valid=0.1, test=0.2) == {"train": (7, 0), "valid": (7, 1), "test": (8, 2)}
    assert cut(100, valid=0.1, test=0.2) == {"train": (70, 0), "valid": (70, 10), "test": (80, 20)}


def test_what_is_tested_on_is_at_least_the_share_and_the_first_element_is_trained_on() -> None:
    assert cut(7, valid=0.0, test=0.2) == {"train": (5, 0), "test": (5, 2)}
    assert cut(2, valid=0.1, test=0.5) == {"train": (1, 0), "test": (1, 1)}
    assert cut(1, valid=0.1, test=0.5) == {"train": (1, 0)}


def test_leave_last_out() -> None:
    assert cut(5, last=1) == {"train": (3, 0), "valid": (3, 1), "test": (4, 1)}
    assert cut(3, last=1) == {"train": (1, 0), "valid": (1, 1), "test": (2, 1)}
    assert cut(9, last=3) == {"train": (3, 0), "valid": (3, 3), "test": (6, 3)}


@pytest.mark.parametrize("length", [1, 2])
def test_a_sequence_that_is_too_short_only_trains(length: int) -> None:
    assert cut(length, last=1) == {"train": (length, 0)}


def test_a_field_without_a_list_is_refused() -> None:
    with pytest.raises(DataError, match="'history' must hold a list in order"):
        list(parts_of(SequenceSplit(by="sequence"), {"text": "words"}))


def test_a_share_beside_a_number_has_no_effect_and_is_refused() -> None:
    with pytest.raises(ValueError, match="has no effect beside last: 1"):
        SequenceSplit(by="sequence", last=1, test=0.2)


def test_reports_name_the_protocol() -> None:
    last = SequenceSplit(by="sequence", last=1).model_dump()
    assert protocol(last).startswith("leave last out")
    shares = protocol(SequenceSplit(by="sequence", valid=0.1, test=0.2).model_dump())
    assert shares == "each sequence in its own order: train 70%, valid 10%, test 20%"


def items_run(folder: Path, **split: Any) -> dict[str, Any]:
    events = [
        {"user": user, "item": f"i{(user + step) % 9}", "time": 100 - step} for user in range(12) for step in range(8)
    ]
    (folder / "events.jsonl").write_text("\n".join(map(json.dumps, events)), encoding="utf-8")
    return {
        "name": "items",
        "data": {
            "adapter": {"type": "core.histories"},
            "source": str(folder / "events.jsonl"),
            "split": {"by": "sequence", **split},
        },
        "encoder": {"type": "core.items", "dim": 8, "layers": 1},
        "head": {"type": "core.ranking"},
    }


def test_a_run_prepares_the_parts_of_each_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from heliostat.ingest import prepare

    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))
    prepared = prepare(check(items_run(tmp_path, last=1)))
    assert prepared.counts == {"train": 12, "valid": 12, "test": 12}
    train = {example["user"]: example["history"] for example in prepared.examples("train")}
    assert train["0"] == ["i7", "i6", "i5", "i4", "i3", "i2"]  # by time, which falls with the step
    for example in prepared.examples("test"):
        assert example["history"][:-1] == train[example["user"]]
        assert len(example["next"]) == 1
        assert not set(example["next"]) & set(example["history"])


def test_a_limit_keeps_the_parts_of_a_sequence_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from heliostat.ingest import prepare

    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))
    values = items_run(tmp_path, last=1)
    values["data"]["limit"] = 5
    prepared = prepare(check(values))
    assert prepared.counts == {"train": 5, "valid": 5, "test": 5}
    users = [{example["user"] for example in prepared.examples(split)} for split in ("train", "valid", "test")]
    assert users[0] == users[1] == users[2]


def test_an_unknown_setting_of_the_split_is_named() -> None:
    with pytest.raises(RunError, match="Did you mean 'test'"):
        load("sentiment/tiny", ["data.split={by: sequence, tets: 0.2}"])


def test_a_ranking_of_which_nothing_follows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from heliostat.ingest import prepare

    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))
    values = items_run(tmp_path)
    values["data"]["split"] = {"by": "hash", "valid": 0.3, "test": 0}
    with pytest.raises(DataError, match=r"in the valid split none did: .* Set data.split.by=sequence"):
        prepare(check(values))
