"""Two real workers of which one does not do its part: it is found within `check_every` updates, and never without."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heliostat.data.prepare import prepare
from heliostat.run import check

WORKER = Path(__file__).with_name("truth_worker.py")
Pair = Callable[..., tuple[list[dict[str, Any]], list[dict[str, Any]]]]


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """pair("skip", check_every=5) trains on two processes; the answers of both, and the rows of the journal."""
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    source = tmp_path / "rows.csv"
    with source.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([f"{'good' if n % 2 else 'bad'} {'word ' * (n % 5)}{n}", "ab"[n % 2]] for n in range(97))

    def run_both(fault: str, **train: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        run = check(
            {
                "name": "pair",
                "data": {"adapter": "core.columns", "source": str(source)},
                "encoder": {"type": "core.text", "preset": "tiny", "vocab_size": 300, "dropout": 0.0},
                "head": {"type": "core.classification", "dropout": 0.0},
                "train": {"epochs": 2, "tokens_per_batch": 96, "log_every": 1, "lr": 3e-3, "precision": "fp32"} | train,
            }
        )
        (tmp_path / "run.json").write_text(json.dumps(run.dump()))
        (tmp_path / "prepared.txt").write_text(str(prepare(run).folder))
        here = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        workers = [
            subprocess.Popen([sys.executable, str(WORKER), str(rank), str(tmp_path), fault], env=here)
            for rank in range(2)
        ]
        try:
            assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        answers = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
        journal = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        return answers, [json.loads(line) for line in journal]

    return run_both


def test_two_workers_that_behave_are_left_alone(pair: Pair) -> None:
    answers, rows = pair("none", check_every=1)
    assert answers[0] == answers[1]
    assert answers[0]["step"] == rows[-1]["step"] > 10


@pytest.mark.fault(
    "a worker goes on with its own gradients",
    seen="`after step … the weights of rank 1 differ from those of rank 0, first in …: gradients were not averaged`",
    lost="steps since the checkpoint before that",
    proof="found within train.check_every updates",
)
def test_a_worker_that_skips_synchronisation_is_found_within_check_every_updates(
    pair: Pair, is_seen: Callable[[str], None]
) -> None:
    answers, rows = pair("skip", check_every=5)
    assert answers[0] == answers[1]
    found = re.match(
        r"after step 5 the weights of rank 1 differ from those of rank 0, first in 'encoder\.\S+': "
        r"gradients were not averaged over all workers\.",
        answers[0]["error"],
    )
    assert found, answers[0]
    is_seen(answers[0]["error"])
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]


@pytest.mark.sweep
def test_without_the_check_the_same_run_looks_healthy(pair: Pair) -> None:
    answers, rows = pair("skip", check_every=None)
    assert answers[0] == answers[1]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert answers[0]["step"] == len(losses)
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.fault(
    "a worker takes examples of another",
    seen="`up to step … the workers saw … examples instead of the … of the plan`",
    lost="steps since the checkpoint before that",
    proof="examples of each rank counted against the plan",
)
def test_a_worker_that_takes_rows_of_others_is_found_after_the_first_update(
    pair: Pair, is_seen: Callable[[str], None]
) -> None:
    answers, _ = pair("greedy")
    assert answers[0] == answers[1]
    found = re.match(
        r"up to step 1 the workers saw (\d+) examples instead of the (\d+) of the plan since the last check "
        r"\(rank 0 (\d+), rank 1 (\d+)\)",
        answers[0]["error"],
    )
    assert found, answers[0]
    is_seen(answers[0]["error"])
    seen, planned, first, second = map(int, found.groups())
    assert second == planned
    assert seen == first + second
