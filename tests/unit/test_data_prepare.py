"""Preparation, whole: from a file to a sealed folder, once; and what stops it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heliostat.component import Row
from heliostat.data.prepare import prepare
from heliostat.data.prepared import SPLITS
from heliostat.errors import DataError
from heliostat.home import home
from heliostat.run import Run, check

COLOURS = ("red", "green", "blue", "black")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))


def rows(count: int = 120) -> list[Row]:
    return [
        {
            "text": f"the {COLOURS[number % 4]} dress number {number} fits {'well' if number % 2 else 'badly'}",
            "label": "good" if number % 2 else "bad",
            "shop": f"shop {number % 3}",
        }
        for number in range(count)
    ]


def source(folder: Path, records: list[Row], name: str = "reviews.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    os.utime(path, ns=(10**18, 10**18))
    return path


def a_run(path: Path, *, slices: tuple[str, ...] = (), head: Any = "core.classification", **data: Any) -> Run:
    adapter = data.pop("adapter", {"type": "core.columns", "text": "text", "label": "label"})
    return check(
        {
            "name": "toy",
            "data": {"adapter": adapter, "source": str(path), "split": {"valid": 0.15, "test": 0.15}, **data},
            "encoder": {"type": "core.text", "preset": "tiny"},
            "head": head,
            "evaluate": {"slices": list(slices)},
        }
    )


def test_prepared_folder_holds_each_example_once(tmp_path: Path) -> None:
    records = rows()
    prepared = prepare(a_run(source(tmp_path, records), slices=("shop",)))
    assert sum(prepared.counts.values()) == len(records)
    assert min(prepared.counts.values()) > 0
    found = [example for split in SPLITS for example in prepared.examples(split)]
    assert sorted(found, key=lambda row: row["text"]) == sorted(records, key=lambda row: row["text"])
    for split in SPLITS:
        shards = prepared.shards(split)
        assert len(shards) == prepared.counts[split] == len(set(shards.ids.tolist()))
    prepared.verify()
    assert not list((home() / "prepared").glob(".building-*"))


def test_shards_are_what_the_fitted_components_encode(tmp_path: Path) -> None:
    run = a_run(source(tmp_path, rows()))
    prepared = prepare(run)
    parts = prepared.parts(run)
    examples = list(prepared.examples("test"))
    batch = prepared.shards("test").batch(np.arange(len(examples)))
    assert batch.dense("target").tolist() == [["bad", "good"].index(example["label"]) for example in examples]
    encoded = parts.encoder.encode(examples)
    name = next(name for name, value in encoded[0].items() if isinstance(value, np.ndarray))
    for mine, theirs in zip(encoded, batch.ragged(name).split(), strict=True):
        assert np.asarray(mine[name]).tolist() == theirs.tolist()


def test_second_call_finds_the_first(tmp_path: Path) -> None:
    run = a_run(source(tmp_path, rows()))
    first = prepare(run)
    stages: list[str] = []
    assert prepare(run, on_progress=lambda stage, *_: stages.append(stage)) == first
    assert stages == []


def test_same_content_elsewhere_is_the_same_data(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first = prepare(a_run(source(tmp_path, rows())))
    assert prepare(a_run(source(tmp_path / "other", rows()))).key == first.key


def test_key_follows_what_shapes_the_data_and_nothing_else(tmp_path: Path) -> None:
    path = source(tmp_path, rows())
    base = a_run(path)
    key = prepare(base).key
    changed = [
        a_run(source(tmp_path, rows(121), "more.jsonl")),
        a_run(path, limit=100),
        a_run(path, split={"valid": 0.2, "test": 0.2}),
        a_run(path, slices=("shop",)),
        a_run(path, head={"type": "core.classification", "labels": ["good", "bad"]}),
    ]
    keys = [prepare(run).key for run in changed]
    assert len({key, *keys}) == 6
    values = base.dump()
    values["train"]["lr"] = 1e-5
    values["data"]["max_rejected"] = 0.5
    assert prepare(check(values)).key == key


def test_limit_draws_evenly_and_always_the_same(tmp_path: Path) -> None:
    records = rows(400)
    run = a_run(source(tmp_path, records), limit=100)
    kept = [example["text"] for split in SPLITS for example in prepare(run).examples(split)]
    backwards = a_run(source(tmp_path, records[::-1], "back.jsonl"), limit=100)
    assert sorted(kept) == sorted(example["text"] for split in SPLITS for example in prepare(backwards).examples(split))
    halves = [sum(record["text"] in kept for record in half) for half in (records[:200], records[200:])]
    assert sum(halves) == 100
    assert min(halves) > 30


def test_nothing_is_fitted_on_valid_or_test(tmp_path: Path) -> None:
    records = [{**row, "part": "train"} for row in rows(60)]
    for part in ("valid", "test"):
        records += [{"text": f"unheardof {row['text']}", "label": row["label"], "part": part} for row in rows(4)]
    prepared = prepare(a_run(source(tmp_path, records), split={"by": "column", "column": "part"}))
    assert prepared.counts == {"train": 60, "valid": 4, "test": 4}
    fitted = "".join(path.read_text(encoding="utf-8") for path in (prepared.folder / "encoder").rglob("*.json"))
    assert "dress" in fitted
    assert "unheardof" not in fitted


def test_leakage_and_stats_are_kept(tmp_path: Path) -> None:
    records = [{**row, "part": "train"} for row in rows(40)]
    records += [{**row, "part": "valid", "text": f"{row['text']} then"} for row in rows(2)]
    records += [{**row, "part": "test", "text": row["text"].upper()} for row in rows(6)]
    records += [records[0]]
    prepared = prepare(a_run(source(tmp_path, records), split={"by": "column", "column": "part"}))
    assert prepared.leakage()["test/train"]["exact"] == 6
    stats = json.loads((prepared.folder / "stats.json").read_text())
    assert stats["repeated"] == 1
    assert stats["records"] == 49
    assert stats["splits"]["test"]["classes"] == {"label": {"bad": 3, "good": 3}}
    assert stats["splits"]["test"]["tokens"]["p50"] > 3


def test_rejected_records_are_listed_with_places_and_reasons(tmp_path: Path) -> None:
    records = rows()
    records[6]["label"] = None
    path = source(tmp_path, records)
    with path.open("a") as file:
        file.write("{broken\n")
    prepared = prepare(a_run(path, max_rejected=0.05))
    assert sum(prepared.counts.values()) == len(records) - 1
    listed = [json.loads(line) for line in (prepared.folder / "rejected.jsonl").read_text().splitlines()]
    assert listed[0] == {"file": "reviews.jsonl", "row": 7, "reason": "label: is missing"}
    assert listed[1]["row"] == 121
    assert "no JSON" in listed[1]["reason"]


def test_too_many_rejects_stop_and_leave_their_list(tmp_path: Path) -> None:
    records = rows()
    for record in records[::10]:
        record["text"] = None
    with pytest.raises(DataError, match=r"12 of 120 records are rejected.*12 x text: is missing") as caught:
        prepare(a_run(source(tmp_path, records)))
    (kept,) = (home() / "rejected").glob("*.jsonl")
    assert str(kept) in str(caught.value)
    assert len(kept.read_text().splitlines()) == 12
    assert list((home() / "prepared").iterdir()) == []


def test_data_of_a_more_lenient_run_do_not_pass_a_stricter_one(tmp_path: Path) -> None:
    records = rows()
    records[6]["label"] = None
    path = source(tmp_path, records)
    prepare(a_run(path, max_rejected=0.05))
    with pytest.raises(DataError, match=r"1 of 120 records are rejected, more than data.max_rejected=0.001"):
        prepare(a_run(path, max_rejected=0.001))


def test_unknown_label_in_test_is_rejected_or_stops(tmp_path: Path) -> None:
    records = [{**row, "part": part} for part in ("train", "valid", "test") for row in rows(60)]
    records[-1]["label"] = "godo"
    split = {"by": "column", "column": "part"}
    path = source(tmp_path, records)
    prepared = prepare(a_run(path, split=split))
    reason = json.loads((prepared.folder / "rejected.jsonl").read_text())["reason"]
    assert prepared.counts["test"] == 59
    assert reason.endswith("Did you mean 'good'?")
    with pytest.raises(DataError, match=r"label 'godo' is none of the classes bad, good"):
        prepare(a_run(path, split=split, max_rejected=0.001))


def test_single_class_stops(tmp_path: Path) -> None:
    records = [{**row, "label": "good"} for row in rows()]
    with pytest.raises(DataError, match=r"needs two classes or more; the train split has only good"):
        prepare(a_run(source(tmp_path, records)))


def test_column_without_any_value_stops_by_name(tmp_path: Path) -> None:
    records = [{**row, "text": " ", "body": row["text"]} for row in rows()]
    with pytest.raises(DataError, match=r"data.adapter.text: the column 'text' is empty in every record.*body"):
        prepare(a_run(source(tmp_path, records)))


def test_missing_label_column_says_which_was_meant(tmp_path: Path) -> None:
    records = [{"text": row["text"], "sentiment": row["label"]} for row in rows()]
    path = source(tmp_path, records)
    with pytest.raises(
        DataError, match=r"no column 'label'. Did you mean 'sentiment'\? Set data.adapter.label=sentiment"
    ):
        prepare(a_run(path))
    with pytest.raises(DataError, match=r"no 'label', which the head needs.*data.adapter.label=sentiment"):
        prepare(a_run(path, adapter="core.columns"))


def test_empty_split_stops_before_anything_is_fitted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no example falls into (valid and )?test \(train \d, valid \d, test 0\)"):
        prepare(a_run(source(tmp_path, rows(3))))


def test_split_by_a_column_that_is_not_there(tmp_path: Path) -> None:
    split = {"by": "time", "column": "day"}
    records = [{**row, "date": "2020"} for row in rows(8)]
    with pytest.raises(DataError, match=r"data.split.column: .*no column 'day'. Did you mean 'date'"):
        prepare(a_run(source(tmp_path, records), split=split))


def test_time_split_end_to_end(tmp_path: Path) -> None:
    records = [{**row, "day": f"2020-01-{number // 4 + 1:02d}"} for number, row in enumerate(rows(80))]
    split = {"by": "time", "column": "day", "valid": 0.1, "test": 0.2}
    prepared = prepare(a_run(source(tmp_path, records[::-1]), split=split))
    days = {name: {example["day"] for example in prepared.examples(name)} for name in SPLITS}
    assert max(days["train"]) < min(days["valid"]) <= max(days["valid"]) < min(days["test"])
    assert prepared.counts == {"train": 56, "valid": 8, "test": 16}
