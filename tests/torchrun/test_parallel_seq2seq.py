"""An encoder with a decoder learns on two workers what it learns on one, replicated and sharded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from heliostat.data.prepare import prepare
from heliostat.run import Run, check
from heliostat.train.loop import fit
from heliostat.train.worker import LocalWorker, set_threads


def _run(pairs: Path, num_workers: int, strategy: str) -> Run:
    encoder = {"type": "core.seq2seq_text", "preset": "tiny", "target": "answer", "vocab_size": 300, "dropout": 0.0}
    train = {"lr": 3e-3, "max_steps": 6, "tokens_per_batch": 200, "tokens_per_micro_batch": 60, "precision": "fp32"}
    return check(
        {
            "name": "pairs",
            "data": {"adapter": "core.columns", "source": str(pairs), "split": {"valid": 0.2, "test": 0}},
            "encoder": encoder,
            "head": {"type": "core.seq2seq", "written_share": 1.0, "max_new_tokens": 8},
            "train": {**train, "log_every": 1, "epochs": 100},
            "scaling": {"num_workers": num_workers, "strategy": strategy},
        }
    )


def _curve(folder: Path) -> tuple[list[float], dict[str, Any]]:
    """The losses of training, and the last validation."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row], [row for row in rows if "valid/loss" in row][-1]


def test_two_workers_learn_to_write_what_one_learns(play: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    set_threads(1)
    pairs = tmp_path / "pairs.jsonl"
    texts = [" ".join(["one", "two", "three"][number % 3 :] * (1 + number % 4)) + f" {number}" for number in range(65)]
    pairs.write_text("".join(json.dumps({"text": text, "answer": text[::-1]}) + "\n" for text in texts))
    prepared = prepare(_run(pairs, 1, "ddp"))
    fit(_run(pairs, 1, "ddp"), prepared, LocalWorker(), tmp_path / "one")
    alone, validated = _curve(tmp_path / "one")
    scenarios = [
        {
            "run": _run(pairs, 2, strategy).dump(),
            "prepared": str(prepared.folder),
            "folder": str(tmp_path / strategy),
            "world_size": 2,
        }
        for strategy in ("ddp", "fsdp")
    ]
    for told, strategy in zip(play(scenarios), ("ddp", "fsdp"), strict=True):
        assert [each["ended"] for each in told] == ["", ""]
        losses, last = _curve(tmp_path / strategy)
        assert losses == pytest.approx(alone, rel=1e-4)
        assert last["valid/perplexity"] == pytest.approx(validated["valid/perplexity"], rel=1e-3)
