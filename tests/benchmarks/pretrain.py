"""Masked-language-model pretraining on real reviews beside transformers' Trainer with BertForMaskedLM.

All sides train the same model from the same first weights on as many tokens, without dropout. `trainer` is given our
minibatches with our masks, so losses can be compared step by step, and has its defaults (fp32, padded to the longest);
`grouped` has bf16 and texts of like length together, `blocks` has bf16 and the texts joined into blocks as
transformers' run_mlm does, without any padding. The valid loss is that of the same masks for all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from measure import Facts, cores, faster, fix_threads, middle
from rounds import Benchmark, Case, Row, Settings, run

FULL = {
    "preset": "small",
    "limit": 6000,
    "tokens": 4096,
    "warm": 3,
    "steps": 30,
    "lr": 5e-4,
    "rate": 0.15,
    "block": 128,
}
TRIAL = {"preset": "tiny", "limit": 400, "tokens": 1024, "warm": 1, "steps": 6}
SIDES = {
    "trainer": ("Trainer, defaults", "6× (4×)"),
    "grouped": ("Trainer, bf16, grouped by length", "2× (1.5×)"),
    "blocks": ("Trainer, bf16, joined into blocks", "2× (1.5×)"),
}
CASES = {"masked": Case(("heliostat", *SIDES), FULL, TRIAL)}


def run_of(settings: Settings) -> Any:
    """Our run of these settings."""
    from ours import loaded

    limit, tokens = settings["limit"], settings["tokens"]
    return loaded(
        "sentiment/pretrain",
        [f"encoder={{type: core.text, preset: {settings['preset']}, max_tokens: 192, dropout: 0.0}}"],
        **{"head": f"{{type: core.masked_lm, rate: {settings['rate']}, whole_words: false}}", "data.limit": limit},
        **{"train.tokens_per_batch": tokens, "train.tokens_per_micro_batch": tokens, "train.weight_decay": 0.0},
        **{"train.max_steps": settings["steps"], "train.epochs": 8, "train.lr": settings["lr"]},
        **{"train.warmup": 0.0, "train.schedule": "constant"},
    )


def turn(case: str, side: str, settings: Settings) -> dict[str, Any]:
    if side == "heliostat":
        import ours

        return ours.train(run_of(settings), settings["warm"])
    fix_threads(cores())
    return trainer_turn(side, settings)


def trainer_turn(side: str, settings: Settings) -> dict[str, Any]:
    """The same with transformers' Trainer."""
    import language
    import ours
    import trainer
    from heliostat.batch import Draws

    our_run = run_of(settings)
    prepared = ours.prepared_of(our_run)
    model = language.Recorded(peer_of(ours.fresh_model(our_run, prepared)))
    feed = given(prepared, our_run, settings) if side == "trainer" else drawn_by_peer(side, prepared, our_run, settings)
    flags = {"learning_rate": settings["lr"], "lr_scheduler_type": "constant", "max_steps": settings["steps"]}
    clock = trainer.train(model, feed.examples, feed.collate, warm=settings["warm"], **flags, **feed.flags)
    draws = Draws(our_run.train.seed, 0, False)
    valid = language.pieces(prepared.shards("valid"))
    batches = (language.masked_batch(prepared, our_run, "valid", part, draws) for part in valid)
    return {
        "wall_s": clock.wall_s,
        "cpu_s": clock.cpu_s,
        "tokens": feed.tokens,
        "tokens_per_s": feed.tokens / clock.wall_s,
        "losses": model.losses,
        "valid_loss": language.mean_loss(model, batches),
    }


class Feed(NamedTuple):
    """What a Trainer trains on."""

    examples: Any
    collate: Callable[[Any], Any]
    flags: dict[str, Any]
    tokens: int
    """In the steps that are timed; padding counts none."""


def given(prepared: Any, our_run: Any, settings: Settings) -> Feed:
    """Our minibatches with our masks, padded before the clock starts."""
    import language
    import ours
    from heliostat.batch import Draws

    steps, warm, seed = settings["steps"], settings["warm"], our_run.train.seed
    plan = ours.plan_of(our_run, prepared)
    batches = list(itertools.islice(((epoch, part) for epoch in range(8) for part in plan.batches(epoch)), steps))
    made = [language.masked_batch(prepared, our_run, "train", part, Draws(seed, epoch)) for epoch, part in batches]
    tokens = sum(int(plan.lengths[part].sum()) for _, part in batches[warm:])
    return Feed(made, lambda rows: rows[0], {"batches": [[place] for place in range(steps)]}, tokens)


def drawn_by_peer(side: str, prepared: Any, our_run: Any, settings: Settings) -> Feed:
    """As many tokens a step, shuffled and masked by the Trainer itself."""
    import language
    import trainer

    shards, timed = prepared.shards("train"), settings["steps"] - settings["warm"]
    words = prepared.parts(our_run).encoder.spec().vocabulary
    collate = language.masking(words.mask_id, words.size, len(words.special_ids), settings["rate"])
    examples = trainer.rows_of(shards, target=None)
    length, flags = float(shards.lengths.mean()), dict(trainer.BEST_FLAGS)
    if side == "blocks":
        length, flags = settings["block"], {"bf16": True}
        examples = language.blocks(examples, settings["block"])
    size = round(settings["tokens"] / length)
    return Feed(examples, collate, {**flags, "per_device_train_batch_size": size}, round(length * size * timed))


def peer_of(model: Any) -> Any:
    """BertForMaskedLM with the weights of ours."""
    from transformers import BertForMaskedLM

    source, tokens = model.encoder.transformer, model.head.tokens
    peer = BertForMaskedLM(source.config)
    peer.set_attn_implementation("sdpa")
    peer.bert.load_state_dict(source.state_dict(), strict=False)
    head = peer.cls.predictions
    head.transform.dense.load_state_dict(tokens.transform.linear.state_dict())
    head.transform.LayerNorm.load_state_dict(tokens.transform.norm.state_dict())
    return peer


def rows(case: str, rounds: Sequence[Facts], settings: Settings) -> list[Row]:
    per_token = [
        {side: {key: found[key] / found["tokens"] for key in ("wall_s", "cpu_s")} for side, found in each.items()}
        for each in rounds
    ]
    ours = middle(rounds, "heliostat", "valid_loss")
    made = []
    for side, (beside, goal) in SIDES.items():
        theirs = middle(rounds, side, "valid_loss")
        equal = f"same tokens; valid loss {ours:.3f} and {theirs:.3f}"
        if side == "trainer":
            equal = f"same minibatches and masks; valid loss {abs(ours / theirs - 1):.2%} apart"
        made.append(
            Row(
                what=f"masked LM, `{settings['preset']}` from nothing",
                beside=beside,
                ours=f"{middle(rounds, 'heliostat', 'tokens_per_s'):,.0f} tokens/s",
                theirs=f"{middle(rounds, side, 'tokens_per_s'):,.0f} tokens/s",
                faster=faster(per_token, "heliostat", side).times(),
                cpu=faster(per_token, "heliostat", side, "cpu_s").times(),
                equal=equal,
                goal=goal,
            )
        )
    return made


if __name__ == "__main__":
    run(Benchmark("pretrain", __file__, CASES, turn, rows))
