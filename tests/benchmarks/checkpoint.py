"""How long a checkpoint keeps training waiting, beside torch.save of the same state, and what it costs in all.

`stall` is the time that the training thread is held up. `lost` is how much later the steps that follow are done than
without a checkpoint: ours writes, hashes and forces to the disk in the background, beside those steps; torch.save is
over when it returns. The state is the model with the moments of AdamW, after one step, on one thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from measure import Facts, cores, faster, fix_threads, median_of, middle
from rounds import Benchmark, Case, Row, Settings, run

FULL = {"layers": None, "saves": 5, "steps_after": 6, "tokens": 1024}
CASES = {
    "minilm": Case(("heliostat", "torch.save"), FULL, {"saves": 2, "steps_after": 2, "tokens": 256}),
    "bert-base": Case(
        ("heliostat", "torch.save"), {**FULL, "layers": 12, "saves": 3}, {"layers": 2, "saves": 2, "steps_after": 1}
    ),
}


def turn(case: str, side: str, settings: Settings) -> dict[str, Any]:
    """Stalls and losses of one way to save."""
    fix_threads(max(1, cores() - 1))
    import ours
    from step_profile import steps, trainee_of

    encoder = ours.wide(settings["layers"]) if settings["layers"] else ours.MINILM
    overrides = [f"train.tokens_per_batch={settings['tokens']}", "data.limit=2000", f"encoder.pretrained={encoder}"]
    with tempfile.TemporaryDirectory(dir=ours.in_home("checkpoints")) as folder:
        trainee = trainee_of("sentiment/pretrained", [*overrides, "train.ema=null"], Path(folder))
        list(steps(trainee, 2))
        save = ways(trainee, Path(folder))[side]
        is_written = save()
        while not is_written():
            time.sleep(0.05)
        stalls, lost = [], []
        for _ in range(settings["saves"]):
            one_step = timed(lambda: list(steps(trainee, settings["steps_after"]))) / settings["steps_after"]
            began, count = time.perf_counter(), 0
            is_written = save()
            stalls.append(time.perf_counter() - began)
            while count < settings["steps_after"] or not is_written():
                list(steps(trainee, 1))
                count += 1
            lost.append(time.perf_counter() - began - count * one_step)
        tensors = [trainee.model.state_dict(), *trainee.optimizer.state.values()]
        size = sum(each.numel() * each.element_size() for kept in tensors for each in kept.values())
    return {
        "wall_s": median_of(stalls).value,
        "cpu_s": median_of(lost).value,
        "stall_s": median_of(stalls).value,
        "lost_s": median_of(lost).value,
        "mb": size / 1e6,
    }


def timed(what: Callable[[], Any]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


Save = Callable[[], Callable[[], bool]]
"""Begins to save, and gives what says whether all is written."""


def ways(trainee: Any, folder: Path) -> dict[str, Save]:
    """How each side saves."""
    import torch

    from heliostat.checkpoint import MANIFEST, step_folder

    def torch_save() -> Callable[[], bool]:
        state = {"model": trainee.model.state_dict(), "optimizer": trainee.optimizer.state_dict()}
        torch.save(state, folder / "state.pt")
        return lambda: True

    def ours() -> Callable[[], bool]:
        manifest = step_folder(folder / "checkpoints", trainee.position.step) / MANIFEST
        trainee.save(trainee.position, [])
        return manifest.exists

    return {"heliostat": ours, "torch.save": torch_save}


def rows(case: str, rounds: Sequence[Facts], settings: Settings) -> list[Row]:
    lost = {side: middle(rounds, side, "lost_s") for side in CASES[case].sides}
    return [
        Row(
            what=f"stall of a checkpoint, {case} ({middle(rounds, 'heliostat', 'mb'):,.0f} MB)",
            beside="torch.save",
            ours=f"{middle(rounds, 'heliostat', 'stall_s') * 1e3:,.0f} ms",
            theirs=f"{middle(rounds, 'torch.save', 'stall_s') * 1e3:,.0f} ms",
            faster=faster(rounds, "heliostat", "torch.save", "stall_s").times(),
            cpu=f"lost in all: {lost['heliostat'] * 1e3:,.0f} and {lost['torch.save'] * 1e3:,.0f} ms",
            equal="same tensors; ours is hashed and forced to the disk, too",
            goal="10×",
        )
    ]


if __name__ == "__main__":
    run(Benchmark("checkpoint", __file__, CASES, turn, rows))
