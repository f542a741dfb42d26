"""Fine-tuning on real reviews beside transformers' Trainer: `python tests/benchmarks/finetune.py [same ...]`

`same` and `base-same` give both sides the same minibatches in the same order, the same first weights and no dropout, so
that their losses can be compared step by step; the Trainer has its defaults (fp32, padded to the longest). `epochs` and
`base-epochs` train the same epochs with dropout, the Trainer with bf16 and reviews of like length together, and compare
the loss on reviews that neither has seen. Each round has a seed of its own. Ours is what `heliostat train` does as a
user starts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from measure import Facts, cores, faster, fix_threads, middle
from rounds import Benchmark, Case, Row, Settings, run

SAME = {"limit": 4000, "tokens": 4096, "warm": 4, "steps": 40, "lr": 5e-5, "dropout": 0.0, "model": "minilm"}
EPOCHS = {**SAME, "limit": 6000, "valid": 0.4, "steps": None, "epochs": 2, "lr": 2e-4, "dropout": 0.1}
BASE = {"model": "base", "layers": 4, "limit": 2000}
TRIAL = {"limit": 400, "tokens": 1024, "warm": 1, "steps": 6}
CASES = {
    "same": Case(("heliostat", "trainer"), SAME, TRIAL),
    "epochs": Case(("heliostat", "trainer, best flags"), EPOCHS, {**TRIAL, "steps": None, "epochs": 1}),
    "base-same": Case(
        ("heliostat", "trainer"), {**SAME, **BASE, "steps": 16, "warm": 2}, {**TRIAL, "layers": 1, "steps": 3}
    ),
    "base-epochs": Case(
        ("heliostat", "trainer, best flags"),
        {**EPOCHS, **BASE, "limit": 2000, "epochs": 1, "lr": 1e-4, "warm": 2},
        {**TRIAL, "steps": None, "layers": 1, "limit": 200},
    ),
}
GOALS = {"same": (5.0, 3.5), "epochs": (1.5, 1.2)}


def run_of(settings: Settings) -> Any:
    """Our run of these settings."""
    from ours import MINILM, loaded, wide

    encoder = MINILM if settings["model"] == "minilm" else str(wide(settings["layers"]))
    steps, lr = settings["steps"], settings["lr"]
    return loaded(
        "sentiment/pretrained",
        [f"train.max_steps={steps}"] if steps else [],
        **{
            "data.limit": settings["limit"],
            "data.split.valid": settings.get("valid", 0.1),
            "encoder.pretrained": encoder,
            "encoder.dropout": settings["dropout"],
        },
        **{"head.class_weights": "none", "head.dropout": settings["dropout"], "train.weight_decay": 0.0},
        **{"train.tokens_per_batch": settings["tokens"], "train.tokens_per_micro_batch": settings["tokens"]},
        **{
            "train.ema": "null",
            "train.seed": 7 + settings.get("round", 0),
            "train.evaluations_per_epoch": 1,
            "train.lr": lr,
            "train.epochs": settings.get("epochs", 4),
        },
        **({"train.warmup": 0.0, "train.schedule": "constant"} if steps else {}),
    )


def turn(case: str, side: str, settings: Settings) -> dict[str, Any]:
    if side == "heliostat":
        import ours

        return ours.train(run_of(settings), settings["warm"])
    fix_threads(cores())
    return trainer_turn(settings)


def trainer_turn(settings: Settings) -> dict[str, Any]:
    """The same with transformers' Trainer; `steps` means given minibatches and its defaults."""
    import ours
    import trainer

    our_run = run_of(settings)
    prepared = ours.prepared_of(our_run)
    shards = prepared.shards("train")
    model = trainer.MeanPooled(ours.fresh_model(our_run, prepared))
    examples, pad = trainer.rows_of(shards), trainer.padder(0)
    plan = ours.plan_of(our_run, prepared)
    batches = [rows.tolist() for epoch in range(int(our_run.train.epochs)) for rows in plan.batches(epoch)]
    warm, steps = settings["warm"], settings["steps"]
    if steps:
        batches = batches[:steps]
        flags: dict[str, Any] = {"max_steps": steps, "lr_scheduler_type": "constant"}
        clock = trainer.train(model, examples, pad, warm=warm, batches=batches, learning_rate=settings["lr"], **flags)
        tokens = sum(int(shards.lengths[rows].sum()) for rows in batches[warm:])
    else:
        size = round(len(shards) * our_run.train.epochs / len(batches))
        flags = {**trainer.BEST_FLAGS, "per_device_train_batch_size": size, "num_train_epochs": settings["epochs"]}
        flags |= {"seed": our_run.train.seed, "learning_rate": settings["lr"], "warmup_steps": 0.06}
        clock = trainer.train(model, examples, pad, warm=warm, **flags)
        tokens = round(int(shards.lengths.sum()) * settings["epochs"] * (1 - warm / len(model.losses)))
    valid = trainer.mean_loss(model, trainer.rows_of(prepared.shards("valid")), pad)
    return {
        "wall_s": clock.wall_s,
        "cpu_s": clock.cpu_s,
        "steps": len(model.losses),
        "tokens": tokens,
        "tokens_per_s": tokens / clock.wall_s,
        "losses": model.losses,
        "valid_loss": valid,
    }


def last_quarter(losses: Sequence[float]) -> float:
    """The mean loss over the last quarter of the steps."""
    kept = losses[-max(1, len(losses) // 4) :]
    return sum(kept) / len(kept)


def rows(case: str, rounds: Sequence[Facts], settings: Settings) -> list[Row]:
    theirs = CASES[case].sides[1]
    size = "MiniLM" if settings["model"] == "minilm" else f"BERT-base width, {settings['layers']} layers"
    # Equal epochs may come to steps of other sizes: what is compared is seconds a token.
    per_token = [
        {side: {key: found[key] / found["tokens"] for key in ("wall_s", "cpu_s")} for side, found in each.items()}
        for each in rounds
    ]
    if settings["steps"]:
        ends = {side: last_quarter(rounds[-1][side]["losses"]) for side in ("heliostat", theirs)}
        apart = abs(ends["heliostat"] - ends[theirs]) / ends[theirs]
        equal = f"same minibatches; loss {apart:.2%} apart (at most 0.5 %)"
    else:
        found = {side: middle(rounds, side, "valid_loss") for side in ("heliostat", theirs)}
        equal = f"same epochs; valid loss {found['heliostat']:.3f} and {found[theirs]:.3f}"
    goal, floor = GOALS[case.removeprefix("base-")]
    return [
        Row(
            what=f"fine-tuning, {size}",
            beside=f"Trainer, {'defaults' if settings['steps'] else 'bf16, grouped by length'}",
            ours=f"{middle(rounds, 'heliostat', 'tokens_per_s'):,.0f} tokens/s",
            theirs=f"{middle(rounds, theirs, 'tokens_per_s'):,.0f} tokens/s",
            faster=faster(per_token, "heliostat", theirs).times(),
            cpu=faster(per_token, "heliostat", theirs, "cpu_s").times(),
            equal=equal,
            goal=f"{goal:g}× ({floor:g}×)",
        )
    ]


if __name__ == "__main__":
    run(Benchmark("finetune", __file__, CASES, turn, rows))
