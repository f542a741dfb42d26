"""Who prepares: the parts of a plugin, several at once, one after a folder that was left half done; none with torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heliostat.data.prepare import prepare
from heliostat.data.prepared import SPLITS, Prepared
from heliostat.errors import DataError
from heliostat.home import home
from heliostat.run import Run, check

CORE = {
    "adapter": {"type": "core.columns", "text": "text", "label": "label"},
    "encoder": {"type": "core.text", "preset": "tiny"},
}
TOY = {"adapter": {"type": "toy.pairs"}, "encoder": {"type": "toy.lengths"}}
PLUGIN = """
    from heliostat.plugin import Classification, DataAdapter, Encoder, FeatureSpec
    import numpy as np

    class Pairs(DataAdapter):
        group_by = "shop"
        order_by = "label"
        def examples(self, rows):
            rows = list(rows)
            for row in rows:
                yield {{"text": row["text"], "label": row["label"], "seen": len(rows)}}

    class Lengths(Encoder):
        def encode(self, examples):
            if any("number 13 " in example["text"] for example in examples):
                raise ValueError("the text of number 13 is secret")
            return [{{"{column}": np.arange(len(e["text"]), dtype=np.int32)}} for e in examples]
        def spec(self):
            return FeatureSpec(4)
        def module(self):
            raise NotImplementedError

    def register(registry):
        registry.add("pairs", Pairs)
        registry.add("lengths", Lengths)
"""


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))


def source(folder: Path, count: int = 120) -> Path:
    """A file of reviews of three shops."""
    rows = [
        {
            "text": f"the dress number {number} fits {'well' if number % 2 else 'badly'}",
            "label": "good" if number % 2 else "bad",
            "shop": f"shop {number % 3}",
        }
        for number in range(count)
    ]
    path = folder / "reviews.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    os.utime(path, ns=(10**18, 10**18))
    return path


def a_run(path: Path, adapter: Any, encoder: Any) -> Run:
    return check(
        {
            "name": "toy",
            "data": {"adapter": adapter, "source": str(path), "split": {"valid": 0.15, "test": 0.15}},
            "encoder": encoder,
            "head": "core.classification",
        }
    )


def test_encoder_that_refuses_one_record_loses_only_that(tmp_path: Path, install: Callable[..., Path]) -> None:
    install("toy", PLUGIN.format(column="inputs"))
    prepared = prepare(a_run(source(tmp_path), **TOY))
    assert sum(prepared.counts.values()) == 119
    listed = json.loads((prepared.folder / "rejected.jsonl").read_text())
    assert listed["reason"].startswith("ValueError in encode (")
    assert listed["reason"].endswith(", in encoding")
    assert {example["seen"] for split in SPLITS for example in prepared.examples(split)} == {40}


def test_columns_of_encoder_and_head_may_not_clash(tmp_path: Path, install: Callable[..., Path]) -> None:
    install("toy", PLUGIN.format(column="target"))
    with pytest.raises(DataError, match=r"Lengths and Classification both give a column 'target'"):
        prepare(a_run(source(tmp_path), **TOY))


def test_edited_plugin_prepares_anew(tmp_path: Path, install: Callable[..., Path]) -> None:
    package = install("toy", PLUGIN.format(column="inputs"))
    run = a_run(source(tmp_path), **TOY)
    before = prepare(run).key
    (package / "cleaning.py").write_text("# a change that no version tells\n")
    assert prepare(run).key != before


def test_builders_at_once_leave_one_whole_folder(tmp_path: Path) -> None:
    run = a_run(source(tmp_path, 60), **CORE)
    found: list[Prepared] = []
    threads = [threading.Thread(target=lambda: found.append(prepare(run))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(map(str, found))) == 1
    found[0].verify()
    assert [path.name for path in (home() / "prepared").iterdir()] == [found[0].key]


def test_half_a_folder_is_made_anew(tmp_path: Path) -> None:
    run = a_run(source(tmp_path), **CORE)
    prepared = prepare(run)
    (prepared.folder / "manifest.json").unlink()
    again = prepare(run)
    again.verify()
    assert again == prepared


def test_preparing_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    run = a_run(source(tmp_path), **CORE)
    code = """if True:
        import json, sys
        from heliostat.data.prepare import prepare
        from heliostat.run import check
        prepare(check(json.loads(sys.argv[1])))
        print(sorted({"ray", "torch"} & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(run.dump())], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
