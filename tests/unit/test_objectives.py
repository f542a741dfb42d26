"""Objectives of pretraining: what is drawn for an example, what a model sees of a text, what it answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from heliostat.batch import Draws
from heliostat.data.collate import collate
from heliostat.data.drawn import drawn
from heliostat.data.prepare import prepare
from heliostat.data.prepared import Prepared
from heliostat.errors import RunError
from heliostat.heads.masking import PLACES
from heliostat.heads.sentences import FOLLOWS
from heliostat.model import build_model
from heliostat.run import Run, check

Make = Callable[..., tuple[Run, Prepared]]


def drawn_by_id(run: Run, prepared: Prepared, rows: list[int], epoch: int) -> dict[int, Any]:
    """For each row all that it was given, as bytes."""
    parts = prepared.parts(run)
    batch = drawn(prepared.shards("train"), np.array(rows), parts.head, Draws(7, epoch), parts.encoder.spec())
    found: dict[int, list[bytes]] = {row: [] for row in rows}
    for name, column in sorted(batch.columns.items()):
        if name == PLACES:  # counted through the whole batch
            continue
        pieces = column.unsqueeze(1) if isinstance(column, torch.Tensor) else column.split()
        for row, piece in zip(rows, pieces, strict=True):
            found[row].append(piece.numpy().tobytes())
    return {row: tuple(values) for row, values in found.items()}


@pytest.mark.parametrize("objective", ["masked_lm", "next_sentence", "sentence_order", "bert", "denoising"])
def test_what_is_drawn_depends_on_the_example_and_the_epoch_alone(objective_run: Make, objective: str) -> None:
    run, prepared = objective_run(objective)
    rows = list(range(24))
    first = drawn_by_id(run, prepared, rows, 0)
    assert {
        **drawn_by_id(run, prepared, rows[16:] + rows[:3], 0),
        **drawn_by_id(run, prepared, rows[3:16][::-1], 0),
    } == first
    again = drawn_by_id(run, prepared, rows, 1)
    assert sum(first[row] != again[row] for row in rows) >= 6


def sentences(run: Run, prepared: Prepared, epoch: int) -> list[tuple[str, str, bool, str]]:
    """(first, second, follows, the pair as it was) of all train examples, as a model reads them in an epoch."""
    parts = prepared.parts(run)
    spec = parts.encoder.spec()
    assert spec.vocabulary
    shards = prepared.shards("train")
    batch = drawn(shards, np.arange(len(shards)), parts.head, Draws(7, epoch), spec)
    told = []
    for ids, start, follows, example in zip(
        batch.ragged("input_ids").split(),
        batch.dense("pair_start").tolist(),
        batch.dense(FOLLOWS).tolist(),
        prepared.examples("train"),
        strict=True,
    ):
        first, second = (spec.vocabulary.text(part.tolist()) for part in (ids[:start], ids[start:]))
        told.append((first, second, bool(follows), f"{example['text']} | {example['next']}".lower()))
    return told


def test_half_of_the_next_sentences_come_from_other_documents(objective_run: Make) -> None:
    run, prepared = objective_run("next_sentence")
    told = [row for epoch in range(8) for row in sentences(run, prepared, epoch)]
    assert 0.45 < np.mean([follows for _, _, follows, _ in told]) < 0.6
    others = {row["next"].lower() for row in prepared.examples("train")}
    for first, second, follows, pair in told:
        assert pair.startswith(first)
        assert second in others
        assert not follows or f"{first} | {second}" == pair
    same = [f"{first} | {second}" == pair for first, second, follows, pair in told if not follows]
    assert np.mean(same) < 0.05  # other documents may hold the same sentence


def test_half_of_the_pairs_are_swapped(objective_run: Make) -> None:
    run, prepared = objective_run("sentence_order")
    told = [row for epoch in range(4) for row in sentences(run, prepared, epoch)]
    assert 0.4 < np.mean([follows for _, _, follows, _ in told]) < 0.6
    for first, second, follows, pair in told:
        assert pair == (f"{first} | {second}" if follows else f"{second} | {first}")


def test_pairs_are_needed_where_pairs_are_asked_for(objective_run: Make) -> None:
    run, _ = objective_run("bert")
    values = run.dump()
    values["encoder"]["fields"] = ["text"]
    with pytest.raises(RunError, match=r"core.bert reads two neighbouring texts.*encoder.fields=\[text, next\]"):
        prepare(check(values))


def test_a_causal_head_refuses_an_encoder_that_looks_ahead(objective_run: Make) -> None:
    run, _ = objective_run("causal_lm")
    values = run.dump()
    values["encoder"] = {"type": "core.text", "preset": "tiny"}
    with pytest.raises(RunError, match=r"core\.causal_lm needs CausalFeatures and core.text gives TokenFeatures"):
        check(values)


@pytest.mark.parametrize("objective", ["masked_lm", "causal_lm", "denoising"])
def test_documents_end_to_end_see_nothing_of_each_other(objective_run: Make, objective: str) -> None:
    run, prepared = objective_run(objective)
    parts = prepared.parts(run)
    torch.manual_seed(1)
    encoder = build_model(parts.encoder, parts.head).eval().encoder
    rows = [{"text": text} for text in ("waves and salt", "moss on the roots of pines", "trams")]
    other = [rows[0], {"text": "lamps and roofs follow gulls unbelievably"}, rows[2]]
    with torch.no_grad():
        one, two = (
            encoder(collate(parts.encoder.encode(each), np.zeros(3, dtype=np.uint64))) for each in (rows, other)
        )
    states = [features.states.split(list(features.tokens.lengths)) for features in (one, two)]
    for place in (0, 2):
        torch.testing.assert_close(states[0][place], states[1][place], rtol=1e-5, atol=1e-6)
    assert states[0][1].shape != states[1][1].shape


def test_a_token_sees_nothing_of_those_that_follow(objective_run: Make) -> None:
    run, prepared = objective_run("causal_lm")
    parts = prepared.parts(run)
    encoder = build_model(parts.encoder, parts.head).eval().encoder
    batch = collate(parts.encoder.encode([{"text": "waves and salt"}, {"text": "moss"}]), np.zeros(2, dtype=np.uint64))
    tokens = batch.ragged("input_ids")
    changed = tokens.with_values(tokens.values.index_fill(0, torch.tensor([tokens.lengths[0] - 1]), 7))
    with torch.no_grad():
        before, after = (encoder(each).states for each in (batch, batch.with_columns(input_ids=changed)))
    last = tokens.lengths[0] - 1
    assert torch.equal(before[:last], after[:last])
    assert torch.equal(before[last + 1 :], after[last + 1 :])
    assert not torch.equal(before[last], after[last])


def test_the_causal_loss_is_that_of_transformers_own_model(objective_run: Make) -> None:
    from transformers import LlamaForCausalLM

    run, prepared = objective_run("causal_lm")
    parts = prepared.parts(run)
    model = build_model(parts.encoder, parts.head).eval()
    batch = drawn(prepared.shards("train"), np.arange(6), parts.head, Draws(7, 0), parts.encoder.spec())
    with torch.no_grad():
        mine = float(model(batch)["loss"]) / parts.head.counts(batch)["loss"]
        transformer: Any = model.encoder.transformer
        whole = LlamaForCausalLM(transformer.config).eval()
        whole.model.load_state_dict(transformer.state_dict())
        whole.lm_head.weight = whole.model.embed_tokens.weight
        whole.set_attn_implementation("sdpa")
        pieces = [ids.unsqueeze(0) for ids in batch.ragged("input_ids").split()]
        sums = [float(whole(ids, labels=ids).loss) * (ids.shape[1] - 1) for ids in pieces]
    assert mine == pytest.approx(sum(sums) / parts.head.counts(batch)["loss"], rel=1e-4)


def test_a_decoder_sees_its_source_and_what_is_written_alone(objective_run: Make) -> None:
    run, prepared = objective_run("denoising")
    parts = prepared.parts(run)
    model = build_model(parts.encoder, parts.head).eval()
    rows = [{"text": "waves and salt"}, {"text": "moss"}, {"text": "gulls follow the boats"}]
    from heliostat.batch import Ragged

    batch = collate(parts.encoder.encode(rows), np.zeros(3, dtype=np.uint64))
    alone = collate(parts.encoder.encode(rows[:1]), np.zeros(1, dtype=np.uint64))
    told = [torch.tensor([1, 9, 8, 7]), torch.tensor([1, 5]), torch.tensor([1])]
    with torch.no_grad():
        whole = model.encoder(batch).decoder.logits(Ragged.of(told))
        one = model.encoder(alone).decoder.logits(Ragged.of(told[:1]))
        shorter = model.encoder(alone).decoder.logits(Ragged.of([told[0][:2]]))
    assert whole.shape[0] == 7
    torch.testing.assert_close(whole[:4], one, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one[:2], shorter, rtol=1e-4, atol=1e-5)


def test_blanks_are_filled(objective_run: Make) -> None:
    run, prepared = objective_run("masked_lm")
    values = run.dump()
    values["encoder"]["blank"] = "___"
    parts = prepared.parts(check(values))
    model = build_model(parts.encoder, parts.head).eval()
    rows = [{"text": "waves ___ salt ___"}, {"text": "moss"}]
    with torch.no_grad():
        answers = model.predict(collate(parts.encoder.encode(rows), np.zeros(2, dtype=np.uint64)))
    assert [len(answer["blanks"]) for answer in answers] == [2, 0]
    assert all(0 < sum(blank.values()) <= 1 for blank in answers[0]["blanks"])
    assert answers[0]["log_likelihood"] < 0
    assert parts.head.gives.model_validate(answers[0]).model_dump() == answers[0]


def test_a_text_is_written_on_without_its_neighbours(objective_run: Make) -> None:
    run, prepared = objective_run("causal_lm")
    parts = prepared.parts(run)
    torch.manual_seed(2)
    model = build_model(parts.encoder, parts.head).eval()
    rows = [{"text": "waves and"}, {"text": "moss " * 60}, {"text": "First come the"}]
    answers = []
    with torch.no_grad():
        for batch in (rows, [rows[2]]):
            answers.append(model.predict(collate(parts.encoder.encode(batch), np.zeros(len(batch), dtype=np.uint64))))
    assert answers[0][2]["text"] == answers[1][0]["text"] != ""
    assert answers[0][1]["tokens"] == 47, "a text that fills the encoder is cut there"
    assert answers[0][0]["log_likelihood"] < 0
