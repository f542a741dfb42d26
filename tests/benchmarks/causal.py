"""Causal language modelling on real reviews: time to a fixed validation loss, beside transformers' Trainer and GPT-2.

Every side trains a model of the same width, depth and vocabulary from nothing, each with what suits it: ours is the
preset with Muon, GPT-2 has AdamW at the better of two rates. Time counts training only; each side stops its clock
for a validation, which is of the same texts and tokens, and the crossing of the target lies on the line between two
validations. `trainer` has its defaults (fp32, padded); `blocks` has bf16 and the texts joined into blocks, as
transformers' run_clm does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from measure import Clock, Facts, cores, faster, fix_threads, middle
from rounds import Benchmark, Case, Row, Settings, run

FULL = {
    **{"preset": "mini", "limit": 12000, "tokens": 4096, "target": 4.6, "every": 15, "block": 128},
    **{"steps": 120, "lr": 3e-3, "muon": 0.02, "peer_steps": 240, "peer_lr": 1e-3},
}
TRIAL = {"preset": "tiny", "limit": 500, "tokens": 1024, "target": 7.5, "every": 4, "steps": 16, "peer_steps": 16}
SIDES = {"trainer": "Trainer's GPT-2, defaults", "blocks": "Trainer's GPT-2, bf16, joined into blocks"}
CASES = {"causal": Case(("heliostat", *SIDES), FULL, TRIAL)}


def run_of(settings: Settings) -> Any:
    """Our run of these settings."""
    from ours import loaded

    tokens, steps = settings["tokens"], settings["steps"]
    return loaded(
        "sentiment/pretrain",
        [
            f"encoder={{type: core.causal_text, preset: {settings['preset']}, max_tokens: 192}}",
            f"train.optimizer={{type: muon, lr: {settings['muon']}}}",
            "head=core.causal_lm",
        ],
        **{"data.limit": settings["limit"], "train.max_steps": steps, "train.epochs": 20, "train.lr": settings["lr"]},
        **{"train.tokens_per_batch": tokens, "train.tokens_per_micro_batch": tokens, "train.schedule": "wsd"},
        **{"train.evaluations_per_epoch": settings.get("evaluations", 1)},
    )


def turn(case: str, side: str, settings: Settings) -> dict[str, Any]:
    if side == "heliostat":
        return ours_turn(settings)
    fix_threads(cores())
    return trainer_turn(side, settings)


def ours_turn(settings: Settings) -> dict[str, Any]:
    """Our training, with as many validations an epoch as `every` steps ask for."""
    import ours

    first = run_of(settings)
    steps_an_epoch = ours.plan_of(first, ours.prepared_of(first)).num_batches(0)
    evaluations = max(1, round(steps_an_epoch / settings["every"]))
    return with_crossing(ours.train(run_of({**settings, "evaluations": evaluations}), 0), settings)


def with_crossing(facts: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The facts, with the seconds at which the valid loss came down to the target."""
    wall, cpu = (crossing(facts["curve"], settings["target"], key) for key in (0, 1))
    return {**facts, "wall_s": wall, "cpu_s": cpu, "reached": wall is not None}


def crossing(curve: Sequence[Sequence[float]], target: float, key: int) -> float | None:
    """Seconds at which the loss comes down to the target, on the line between two validations; None if never."""
    before: Sequence[float] | None = None
    for point in curve:
        if point[2] <= target:
            if before is None:
                return point[key]
            share = (before[2] - target) / max(1e-9, before[2] - point[2])
            return before[key] + share * (point[key] - before[key])
        before = point
    return None


def trainer_turn(side: str, settings: Settings) -> dict[str, Any]:
    """GPT-2 under transformers' Trainer."""
    import torch
    from transformers import TrainerCallback

    import language
    import ours
    import trainer

    our_run = run_of(settings)
    prepared = ours.prepared_of(our_run)
    shards, valid = prepared.shards("train"), prepared.shards("valid")
    torch.manual_seed(our_run.train.seed)
    spec = prepared.parts(our_run).encoder.spec()
    model = language.Recorded(gpt2(settings["preset"], spec.vocabulary.size))
    texts = trainer.rows_of(valid, target=None)
    clock, curve = Clock(), []

    class Evaluated(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock.start()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step > 1:  # the first step is timed on no side
                clock.stop()
            if state.global_step % settings["every"] == 0:
                batches = (language.causal([texts[row] for row in rows]) for rows in language.pieces(valid))
                curve.append((clock.wall_s, clock.cpu_s, language.mean_loss(model, batches, shift=1)))
                control.should_training_stop = curve[-1][2] <= settings["target"]

    examples: Any = trainer.rows_of(shards, target=None)
    size = round(settings["tokens"] / float(shards.lengths.mean()))
    flags: dict[str, Any] = {}
    if side == "blocks":
        examples, size = language.blocks(examples, settings["block"]), settings["tokens"] // settings["block"]
        flags = {"bf16": True}
    trainer.train(
        model,
        examples,
        language.causal,
        warm=0,
        callbacks=[Evaluated()],
        max_steps=settings["peer_steps"],
        learning_rate=settings["peer_lr"],
        warmup_steps=0.06,
        per_device_train_batch_size=size,
        **flags,
    )
    return with_crossing({"curve": curve, "losses": model.losses, "valid_loss": curve[-1][2]}, settings)


def gpt2(preset: str, vocab_size: int) -> Any:
    """GPT-2 of the width and depth of one of our presets."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from heliostat.encoders.presets import PRESETS

    size = PRESETS[preset]
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=192,
        n_embd=size.dim,
        n_layer=size.layers,
        n_head=size.heads,
        n_inner=size.inner,
        bos_token_id=1,
        eos_token_id=2,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),  # nothing is seen often enough to overfit
    )
    return GPT2LMHeadModel(config)


def rows(case: str, rounds: Sequence[Facts], settings: Settings) -> list[Row]:
    def seconds(side: str) -> str:
        reached = all(each[side]["reached"] for each in rounds)
        return f"{middle(rounds, side, 'wall_s'):,.0f} s" if reached else "not reached"

    made = []
    for side, beside in SIDES.items():
        both = all(each[one]["reached"] for each in rounds for one in ("heliostat", side))
        made.append(
            Row(
                what=f"causal LM, `{settings['preset']}` from nothing, time to a valid loss of {settings['target']:g}",
                beside=beside,
                ours=seconds("heliostat"),
                theirs=seconds(side),
                faster=faster(rounds, "heliostat", side).times() if both else "",
                cpu=faster(rounds, "heliostat", side, "cpu_s").times() if both else "",
                equal="same texts, tokens, width and depth; the loss is what time is taken to",
                goal="8× (4×)" if side == "trainer" else "",
            )
        )
    return made


if __name__ == "__main__":
    run(Benchmark("causal", __file__, CASES, turn, rows))
