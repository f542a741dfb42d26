"""How much may be left out: records, groups of them and examples; and records without the key they are grouped by."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heliostat.data.prepare import prepare
from heliostat.data.rejects import Place, Reject, RejectLog, Tally, check_rejects
from heliostat.data.split import key_of
from heliostat.errors import DataError, RejectedRecord
from heliostat.run import HashSplit, check

SHOPS = '''
from heliostat.plugin import DataAdapter, RejectedRecord

class Shops(DataAdapter):
    """All that was said in a shop."""
    group_by = "shop"
    def examples(self, rows):
        rows = list(rows)
        if rows[0]["shop"] in ("s0", "s1"):
            raise RejectedRecord("a shop that is refused")
        yield {"text": " ".join(row["text"] for row in rows), "label": rows[0]["label"]}

class Words(DataAdapter):
    """Each word by itself."""
    def examples(self, rows):
        for row in rows:
            for word in row["text"].split():
                yield {"text": None if word == "said" else word, "label": row["label"]}

def register(registry):
    registry.add("shops", Shops)
    registry.add("words", Words)
'''


@pytest.fixture
def shops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Callable[..., Path]) -> Path:
    """200 records of 20 shops, the first two with 46 each."""
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))
    install("shops", SHOPS)
    names = [*["s0"] * 46, *["s1"] * 46, *(f"s{2 + number % 18}" for number in range(108))]
    lines = [f"{name},word{number} was said,{'good' if number % 2 else 'bad'}" for number, name in enumerate(names)]
    path = tmp_path / "shops.csv"
    path.write_text("\n".join(["shop,text,label", *lines]) + "\n")
    return path


def prepared(source: Path, adapter: str, most: float) -> Any:
    data = {"adapter": adapter, "source": str(source), "max_rejected": most, "split": {"valid": 0.3, "test": 0.3}}
    encoder = {"type": "core.text", "preset": "tiny", "vocab_size": 300}
    return prepare(check({"name": "shops", "data": data, "encoder": encoder, "head": "core.classification"}))


def test_a_refused_group_counts_with_all_its_records(shops: Path) -> None:
    with pytest.raises(DataError, match=r"^92 of 200 records are rejected.*: 92 x a shop that is refused.*=0.46\.$"):
        prepared(shops, "shops.shops", 0.2)
    kept = prepared(shops, "shops.shops", 0.46)
    [first, _] = [json.loads(line) for line in (kept.folder / "rejected.jsonl").read_text().splitlines()]
    assert first == {"file": "shops.csv", "row": 1, "reason": "a shop that is refused", "records": 46}
    with pytest.raises(DataError, match=r"^92 of 200 records are rejected"):  # what is there counts again
        prepared(shops, "shops.shops", 0.2)


def test_a_rejected_example_counts_among_examples(shops: Path) -> None:
    with pytest.raises(DataError, match=r"^200 of 600 examples are rejected.*data.max_rejected=0.34\.$"):
        prepared(shops, "shops.words", 0.3)
    assert sum(prepared(shops, "shops.words", 0.34).counts.values()) == 400


def test_records_without_the_key_of_their_group_are_rejected(shops: Path) -> None:
    lines = shops.read_text().splitlines()
    shops.write_text("\n".join([*lines, *[",nobody's,good"] * 4]) + "\n")
    with pytest.raises(DataError, match=r"4 x shop: is missing, and records are grouped by it"):
        prepared(shops, "shops.shops", 0.2)


def test_an_example_without_any_part_of_the_key_is_rejected() -> None:
    split = HashSplit(key=("customer", "account"))
    assert 0.0 <= key_of(split, {"customer": None, "account": 3}, ()) < 1.0
    with pytest.raises(RejectedRecord, match=r"customer, account: is missing, and data.split needs it"):
        key_of(split, {"customer": None, "account": None}, ())
    assert 0.0 <= key_of(HashSplit(), {"text": None}, ("text",)) < 1.0


def test_reject_log_counts_and_tells(tmp_path: Path) -> None:
    with RejectLog(tmp_path / "rejected.jsonl") as log:
        log.extend([Reject(Place("a", 2), "bad"), Reject(Place("a", 4), "worse", 1), Reject(Place("a", 5), "bad")])
    assert (tmp_path / "rejected.jsonl").read_text().splitlines()[0] == '{"file": "a", "row": 2, "reason": "bad"}'
    log.tally.records, log.tally.examples = 300, 299
    check_rejects(log.tally, 0.01, log.path)
    log.tally.records, log.tally.examples = 299, 298
    with pytest.raises(DataError, match=r"3 of 299 records are rejected.*2 x bad; 1 x worse.*data.max_rejected=0.02"):
        check_rejects(log.tally, 0.01, log.path)


def test_records_and_examples_are_told_apart() -> None:
    tally = Tally(records=1000, examples=50, rejected_records=100, rejected_examples=5)
    assert tally.share == pytest.approx(0.19)
    assert str(tally) == "100 of 1,000 records and 5 of 50 examples"
    assert str(Tally(records=9)) == "0 of 9 records"
