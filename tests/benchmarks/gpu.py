"""Training on one GPU beside transformers' Trainer, with MFU: under 10 minutes, and no Ray is needed.

    pip install --no-deps --no-build-isolation -e . -e plugins/sentiment
    python tests/benchmarks/gpu.py
    python tests/benchmarks/gpu.py --cpu --quick      # the same on a CPU, to see that it works

Beside torch and transformers the engine asks for pydantic and rapidfuzz, and the data for pandas and pyarrow. Real
reviews, models from nothing. Both sides get the same minibatches in bf16, without dropout; the Trainer pads them to the
longest and takes its defaults otherwise. MFU counts the operations that the model's mathematics asks for on real tokens
(padding, and projections of places without a mask, are no work done) over the peak of the data sheet, or where the
device is unknown over the best product measured on it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import Facts, best_product_flops, clocked, cores, faster, fix_threads, middle
from rounds import Benchmark, Case, Row, Settings, run

FULL = {"limit": None, "tokens": 32768, "warm": 10, "steps": 60, "lr": 1e-4, "rate": 0.15}
TRIAL = {"limit": 400, "tokens": 1024, "warm": 1, "steps": 4, "preset": "tiny", "compile": False}
SIDES = ("heliostat", "trainer")
CASES = {
    "classify-small": Case(SIDES, {**FULL, "preset": "small", "task": "classify", "compile": False}, TRIAL),
    "classify-base": Case(SIDES, {**FULL, "preset": "base", "task": "classify", "compile": False}, TRIAL),
    "masked-base": Case(SIDES, {**FULL, "preset": "base", "task": "masked", "compile": False}, TRIAL),
    "masked-base-compiled": Case(SIDES, {**FULL, "preset": "base", "task": "masked", "compile": True}, TRIAL),
}
GOALS = {"classify": "2.5×", "masked": "3×"}
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 operations a second by the data sheet (SXM)."""


def overrides(settings: Settings) -> tuple[str, list[str]]:
    """The run file and what is laid over it."""
    base = "sentiment/pretrain" if settings["task"] == "masked" else "sentiment/default"
    head = f"{{type: core.masked_lm, rate: {settings['rate']}, whole_words: false}}"
    if settings["task"] != "masked":
        head = "{type: sentiment.polarity, dropout: 0.0}"
    tokens, limit = settings["tokens"], settings["limit"] or "null"
    return base, [
        f"encoder={{type: core.text, preset: {settings['preset']}, max_tokens: 192, dropout: 0.0}}",
        f"head={head}",
        f"data.limit={limit}",
        f"train.tokens_per_batch={tokens}",
        f"train.tokens_per_micro_batch={tokens}",
        f"train.compile={str(settings['compile']).lower()}",
        f"train.lr={settings['lr']}",
        *("train.warmup=0.0", "train.schedule=constant", "train.weight_decay=0.0", "train.epochs=20"),
    ]


def turn(case: str, side: str, settings: Settings) -> dict[str, Any]:
    fix_threads(cores())
    from step_profile import trainee_of

    with tempfile.TemporaryDirectory() as folder:
        trainee = trainee_of(*overrides(settings), Path(folder))
        return ours_turn(trainee, settings) if side == "heliostat" else trainer_turn(trainee, settings)


def ours_turn(trainee: Any, settings: Settings) -> dict[str, Any]:
    """Updates of the engine, with all that belongs to one: the batch, its masks, clipping, the optimiser."""
    from step_profile import steps

    losses: list[float] = []
    list(steps(trainee, settings["warm"], settings["lr"], losses))
    synchronise()
    with clocked() as clock:
        made = list(steps(trainee, settings["steps"] - settings["warm"], settings["lr"], losses))
        synchronise()
    return facts(clock, made, losses, flops(trainee, settings, made))


def trainer_turn(trainee: Any, settings: Settings) -> dict[str, Any]:
    """The same minibatches under transformers' Trainer."""
    import itertools

    import language
    import trainer
    from heliostat.batch import Draws

    plan, seed, count = trainee.plan, trainee.run.train.seed, settings["steps"]
    batches = list(itertools.islice(((epoch, rows) for epoch in range(20) for rows in plan.batches(epoch)), count))
    made = [trainee.train.lengths[rows].tolist() for _, rows in batches[settings["warm"] :]]
    work = flops(trainee, settings, made)
    if settings["task"] == "masked":
        from heliostat.data.prepared import Prepared
        from heliostat.home import home
        from pretrain import peer_of

        prepared = Prepared.open(home() / "prepared" / trainee.data_key)
        model: Any = language.Recorded(peer_of(trainee.model))
        examples: Any = [
            language.masked_batch(prepared, trainee.run, "train", rows, Draws(seed, epoch)) for epoch, rows in batches
        ]
    else:
        model, pad = trainer.MeanPooled(trainee.model), trainer.padder(0)
        every = trainer.rows_of(trainee.train)
        examples = [pad([every[row] for row in rows]) for _, rows in batches]
    flags = {"learning_rate": settings["lr"], "lr_scheduler_type": "constant", "max_steps": count, "bf16": True}
    given = [[place] for place in range(count)]
    clock = trainer.train(model, examples, lambda each: each[0], warm=settings["warm"], batches=given, **flags)
    return facts(clock, made, model.losses, work)


def facts(clock: Any, made: list[list[int]], losses: Sequence[float], work: float) -> dict[str, Any]:
    tokens = sum(map(sum, made))
    return {
        "wall_s": clock.wall_s,
        "cpu_s": clock.cpu_s,
        "tokens_per_s": tokens / clock.wall_s,
        "mfu": work / clock.wall_s / peak(),
        "losses": list(losses),
    }


def flops(trainee: Any, settings: Settings, made: list[list[int]]) -> float:
    """Operations that the steps ask for: those of the encoder, and of the projection at masked places."""
    from step_profile import model_flops

    encoder = sum(model_flops(trainee.model, lengths) for lengths in made)
    if settings["task"] != "masked":
        return float(encoder)
    vocabulary, dim = trainee.model.encoder.transformer.get_input_embeddings().weight.shape
    places = settings["rate"] * sum(map(sum, made))
    return float(encoder + 6.0 * places * dim * (dim + vocabulary))


def peak() -> float:
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    known = next((value for key, value in PEAK.items() if key in name), None)
    return known or best_product_flops("bf16", 8192 if name else 1024)


def synchronise() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def rows(case: str, rounds: Sequence[Facts], settings: Settings) -> list[Row]:
    from finetune import last_quarter

    def told(side: str) -> str:
        return f"{middle(rounds, side, 'tokens_per_s'):,.0f} tokens/s, MFU {middle(rounds, side, 'mfu'):.0%}"

    ends = {side: last_quarter(rounds[-1][side]["losses"]) for side in SIDES}
    apart = abs(ends["heliostat"] / ends["trainer"] - 1)
    compiled = ", compiled" if settings["compile"] else ""
    return [
        Row(
            what=f"one GPU, {settings['task']}, `{settings['preset']}`{compiled}",
            beside="Trainer, bf16",
            ours=told("heliostat"),
            theirs=told("trainer"),
            faster=faster(rounds, "heliostat", "trainer").times(),
            cpu=faster(rounds, "heliostat", "trainer", "cpu_s").times(),
            equal=f"same minibatches; loss {apart:.2%} apart",
            goal=GOALS[settings["task"]],
        )
    ]


if __name__ == "__main__":
    if "--cpu" in sys.argv:
        sys.argv.remove("--cpu")
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif "--turn" not in sys.argv and not Path("/proc/driver/nvidia").exists():
        print("gpu: there is no GPU here; skipped. (--cpu --quick tries it on a CPU.)")
        sys.exit(0)
    run(Benchmark("gpu", __file__, CASES, turn, rows))
