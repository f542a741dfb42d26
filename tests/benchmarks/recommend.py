"""SASRec on MovieLens 100K beside RecBole's, on one split and protocol: NDCG@10 and CPU seconds, on one thread each.

Leave-last-out, in our order of each user's ratings (ties of time as the source has them), the whole catalogue ranked,
all that a user has rated left out. RecBole trains with its own defaults in an environment of its own, made once with
pinned versions; it is scored by the same few lines as ours. Its best epoch is chosen on valid, and its CPU seconds
count up to that epoch only; ours count whole. It ends by its own early stopping, or after `cpu_s`; interrupted, it goes
on from its last epoch. What it has trained stays while its histories, its versions and its script do: forty minutes on
which nothing of ours has an effect.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from environments import python_of
from measure import Facts, clocked, faster, fix_threads, middle
from rounds import CACHE, Benchmark, Case, Row, Settings, run

PINS = Path(__file__).with_name("recbole.txt")
PLACE = CACHE / "recbole"
HISTORIES = PLACE / "histories.json"
FULL: Settings = {"cpu_s": 2400.0, "users": None, "overrides": []}
TRIAL: Settings = {"cpu_s": 2.0, "users": 40, "overrides": ["train.epochs=1"]}
CASES = {"ml-100k": Case(("heliostat", "recbole"), FULL, TRIAL, rounds=1)}


def peer_python() -> str:
    """The interpreter of RecBole's environment, with the histories lying ready for it."""
    # Without what it names beside it: an old Ray, for a search that is not made here.
    python = python_of(PINS, ("recbole==1.2.1",))
    if not HISTORIES.exists():
        sys.exit("the histories are missing: our side writes them. Start again with --fresh.")
    return python


def turn(case: str, side: str, settings: Settings) -> dict[str, Any]:
    fix_threads(1)
    if side == "recbole":
        from recommend_peer import train

        return train(HISTORIES, place_of(settings), settings["cpu_s"], settings["users"])
    return ours_turn(settings)


def ours_turn(settings: Settings) -> dict[str, Any]:
    """Our run, in this process, and its answers to the test rows."""
    import ours
    from heliostat.data.fetch import fetch
    from heliostat.predict import Predictor
    from heliostat.run import load
    from heliostat.train.launch import train

    fixed = ["scaling.threads_per_worker=1", "train.trackers=[]"]
    our_run = load("recommendation/ml-100k", [*fixed, *settings["overrides"]])
    fetch(our_run.data.source)
    prepared = ours.prepared_of(our_run)
    write_histories(prepared)
    keep_or_forget(place_of(settings) / "state")
    with clocked() as clock:
        result = train(our_run)
    examples = list(prepared.examples("test"))
    predictor = Predictor.load(result.checkpoint, threads=1)
    answers = predictor.predict([{"history": row["history"]} for row in examples])
    ranks = [_rank(answer["items"], row["next"][0]) for answer, row in zip(answers, examples, strict=True)]
    shutil.rmtree(result.folder)
    return {
        "wall_s": clock.wall_s,
        "cpu_s": clock.cpu_s,
        "ndcg_at_10": ndcg_at_10(ranks),
        "users": len(examples),
        "steps": result.steps,
    }


def _rank(items: Sequence[str], wanted: str) -> int:
    return items.index(wanted) if wanted in items else 10**9


def ndcg_at_10(ranks: Sequence[int]) -> float:
    """The mean over users of 1 / log2(rank + 2), ranks from 0, of those in the first ten; one target a user."""
    import math

    return sum(1.0 / math.log2(rank + 2) for rank in ranks if rank < 10) / len(ranks)


def write_histories(prepared: Any) -> None:
    """Each user's items in order, the last of which is tested on: what both sides learn from."""
    histories = [[*row["history"], *row["next"]] for row in prepared.examples("test")]
    HISTORIES.parent.mkdir(parents=True, exist_ok=True)
    HISTORIES.write_text(json.dumps(histories), encoding="utf-8")


def place_of(settings: Settings) -> Path:
    """Where RecBole trains."""
    return PLACE / ("all" if settings["users"] is None else f"first-{settings['users']}")


def keep_or_forget(state: Path) -> None:
    """Forget what RecBole has trained on other histories, by other versions or by another script."""
    of = hashlib.sha256()
    for file in (HISTORIES, PINS, Path(__file__).with_name("recommend_peer.py")):
        of.update(file.read_bytes())
    note = state / "of.txt"
    if note.is_file() and note.read_text(encoding="ascii") == of.hexdigest():
        return
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    note.write_text(of.hexdigest(), encoding="ascii")


def rows(case: str, rounds: Sequence[Facts], settings: Settings) -> list[Row]:
    found = {side: middle(rounds, side, "ndcg_at_10") for side in CASES[case].sides}
    return [
        Row(
            what="SASRec on MovieLens 100K",
            beside=f"RecBole 1.2.1, its defaults, its best epoch until {rounds[0]['recbole']['ended_by']}",
            ours=f"NDCG@10 {found['heliostat']:.4f} in {middle(rounds, 'heliostat', 'cpu_s'):,.0f} CPU-s",
            theirs=f"NDCG@10 {found['recbole']:.4f} in {middle(rounds, 'recbole', 'cpu_s'):,.0f} CPU-s",
            faster=faster(rounds, "heliostat", "recbole").times(),
            cpu=faster(rounds, "heliostat", "recbole", "cpu_s").times(),
            equal="one split, full ranking, seen items left out, one thread",
            goal="20× (8×) at NDCG@10 no lower",
        )
    ]


if __name__ == "__main__":
    if "--fresh" in sys.argv:
        shutil.rmtree(place_of(FULL), ignore_errors=True)
    run(Benchmark("recommend", __file__, CASES, turn, rows, {"recbole": peer_python}))
