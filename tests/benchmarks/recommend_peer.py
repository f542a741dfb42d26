"""RecBole's SASRec on given histories. Runs in RecBole's environment: it imports nothing of Heliostat."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import Clock

UP = 4
"""The exit code of a turn that may go on later."""


class Ended(Exception):
    """The CPU seconds that it was given are spent."""


def train(histories: Path, place: Path, cpu_s: float, users: int | None = None) -> dict[str, Any]:
    """Train until RecBole stops or `cpu_s` are spent. The best epoch by valid NDCG@10, and what came before it."""
    import torch

    told = json.loads(histories.read_text(encoding="utf-8"))[:users]
    _write_inter(told, place / "data" / "histories" / "histories.inter")
    trainer, train_data, valid_data, dataset = _built(place)
    state = place / "state" / "epoch.pt"
    state.parent.mkdir(parents=True, exist_ok=True)
    clock, curve = Clock(), []
    if state.exists():
        kept = torch.load(state, weights_only=True)
        trainer.model.load_state_dict(kept["model"])
        trainer.optimizer.load_state_dict(kept["optimizer"])
        trainer.start_epoch, trainer.best_valid_score, trainer.cur_step = kept["progress"]
        (clock.wall_s, clock.cpu_s), curve = kept["spent"], kept["curve"]
    deadline = float(os.environ.get("BENCHMARK_DEADLINE", "inf"))

    def epoch_done(epoch: int, score: float) -> None:
        clock.stop()
        valid, test = (_ndcg(trainer, dataset, told, left_out) for left_out in (2, 1))
        curve.append([clock.wall_s, clock.cpu_s, valid, test])
        print(f"epoch {epoch}: {clock.cpu_s:.0f} CPU-s, valid {valid:.4f}, test {test:.4f}", flush=True)
        kept = {
            "model": trainer.model.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "progress": [epoch + 1, float(trainer.best_valid_score), int(trainer.cur_step)],
            "spent": [clock.wall_s, clock.cpu_s],
            "curve": curve,
        }
        torch.save(kept, state.with_suffix(".staged"))
        state.with_suffix(".staged").replace(state)
        if clock.cpu_s > cpu_s:
            raise Ended
        if time.time() > deadline:
            sys.exit(UP)
        clock.start()

    reason = "its early stopping"
    clock.start()
    try:
        trainer.fit(train_data, valid_data, verbose=False, saved=False, show_progress=False, callback_fn=epoch_done)
    except Ended:
        reason = f"{cpu_s:g} CPU seconds"
    wall, cpu, _, test = max(curve, key=lambda point: float(point[2]))
    return {
        "wall_s": wall,
        "cpu_s": cpu,
        "ndcg_at_10": test,
        "users": len(told),
        "epochs": len(curve),
        "cpu_s_in_all": clock.cpu_s,
        "ended_by": reason,
        "curve": curve,
    }


def _write_inter(histories: Sequence[Sequence[str]], path: Path) -> None:
    """RecBole's own format; a place in the history stands for the time, so that no two are equal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user, items in enumerate(histories):
            file.writelines(f"{user}\t{item}\t{place}\n" for place, item in enumerate(items))


def _built(place: Path) -> tuple[Any, Any, Any, Any]:
    """Trainer, train and valid data, and the data set."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender import SASRec
    from recbole.trainer import Trainer
    from recbole.utils import init_seed

    os.chdir(place)
    sys.argv = sys.argv[:1]  # RecBole reads the command line
    config = Config(
        model="SASRec",
        dataset="histories",
        config_dict={
            "data_path": str(place / "data"),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
            "train_neg_sample_args": None,
            "valid_metric": "NDCG@10",
            "use_gpu": False,
            "show_progress": False,
            "state": "ERROR",
        },
    )
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train_data, valid_data, _ = data_preparation(config, dataset)
    model = SASRec(config, train_data.dataset).to(config["device"])
    return Trainer(config, model), train_data, valid_data, dataset


def _ndcg(trainer: Any, dataset: Any, histories: Sequence[Sequence[str]], left_out: int) -> float:
    """NDCG@10 of the item that stands `left_out` from the end, among all that stand in no place before it."""
    import math

    import torch
    from recbole.data.interaction import Interaction

    model, longest = trainer.model, trainer.config["MAX_ITEM_LIST_LENGTH"]
    model.eval()
    total = 0.0
    for start in range(0, len(histories), 256):
        known = [dataset.token2id("item_id", list(items)) for items in histories[start : start + 256]]
        before = [list(items[: len(items) - left_out]) for items in known]
        table = torch.zeros(len(before), longest, dtype=torch.long)
        for place, items in enumerate(before):
            table[place, : len(items[-longest:])] = torch.tensor(items[-longest:])
        lengths = torch.tensor([min(longest, len(items)) for items in before])
        asked = Interaction({model.ITEM_SEQ: table, model.ITEM_SEQ_LEN: lengths})
        with torch.no_grad():
            scores = model.full_sort_predict(asked)
        scores[:, 0] = -torch.inf
        for row, (items, whole) in enumerate(zip(before, known, strict=True)):
            scores[row, torch.tensor(items)] = -torch.inf
            rank = int((scores[row] > scores[row, whole[len(whole) - left_out]]).sum())
            total += 1.0 / math.log2(rank + 2) if rank < 10 else 0.0
    return total / len(histories)
