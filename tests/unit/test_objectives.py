"""Objectives of pretraining: what is drawn for an example, what a loss reads, that it falls and resumes exactly."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heliostat import checkpoint
from heliostat.batch import Batch, Draws
from heliostat.data.collate import collate
from heliostat.data.drawn import drawn
from heliostat.data.prepare import prepare
from heliostat.data.prepared import Prepared
from heliostat.errors import HeliostatError, RunError, Stopped
from heliostat.heads.masked_lm import MaskedLM
from heliostat.heads.masking import PLACES, TARGETS
from heliostat.heads.sentences import FOLLOWS
from heliostat.model import build_model
from heliostat.run import Run, check
from heliostat.train.loop import fit
from heliostat.train.worker import LocalWorker, set_threads

OBJECTIVES: dict[str, dict[str, Any]] = {
    "masked_lm": {"head": {"type": "core.masked_lm", "rate": 0.3}},
    "next_sentence": {"head": "core.next_sentence", "give": "pairs"},
    "sentence_order": {"head": "core.sentence_order", "give": "pairs"},
    "bert": {"head": {"type": "core.bert", "rate": 0.2}, "give": "pairs"},
    "causal_lm": {"head": "core.causal_lm", "encoder": "core.causal_text"},
    "denoising": {"head": "core.denoising", "encoder": "core.seq2seq_text"},
}
SUBJECTS = {
    "sea": ["waves", "salt", "boats", "gulls", "sand"],
    "wood": ["pines", "moss", "deer", "roots", "owls"],
}
ORDER = ["First", "Then", "Later", "Afterwards", "Next", "Soon", "Finally", "Last"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 documents of eight sentences, each document about one subject, its sentences in an order that words tell."""
    dice = random.Random(5)
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(40):
        things = SUBJECTS[[*SUBJECTS][number % 2]]
        sentences = [f"{word} unbelievably {dice.choice(things)} follow the {dice.choice(things)}." for word in ORDER]
        (folder / f"{number}.txt").write_text(" ".join(sentences))
    return folder


Make = Callable[..., tuple[Run, Prepared]]


@pytest.fixture(scope="module")
def made(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """made("bert", epochs=2, ...) is a run with this objective and its prepared data."""
    home = tmp_path_factory.mktemp("home")
    set_threads(1)

    def make(objective: str, dropout: float = 0.1, **train: Any) -> tuple[Run, Prepared]:
        chosen = OBJECTIVES[objective]
        give = chosen.get("give", "chunks")
        encoder = {
            "type": chosen.get("encoder", "core.text"),
            "preset": "tiny",
            "vocab_size": 330,
            "max_tokens": 48,
            "dropout": dropout,
        }
        fields = ["text", "next"] if give == "pairs" else ["text"]
        run = check(
            {
                "name": objective,
                "data": {
                    "adapter": {"type": "core.documents", "give": give, "max_words": 20},
                    "source": str(corpus),
                    "split": {"valid": 0.2, "test": 0},
                },
                "encoder": {**encoder, "fields": fields},
                "head": chosen["head"],
                "train": {
                    "epochs": 2, "lr": 3e-3, "tokens_per_batch": 500, "log_every": 1, "precision": "fp32", **train
                },
            }
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HELIOSTAT_HOME", str(home))
            return run, prepare(run)

    return make


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
def test_what_is_drawn_depends_on_the_example_and_the_epoch_alone(made: Make, objective: str) -> None:
    run, prepared = made(objective)
    rows = list(range(24))
    first = drawn_by_id(run, prepared, rows, 0)
    assert {
        **drawn_by_id(run, prepared, rows[16:] + rows[:3], 0),
        **drawn_by_id(run, prepared, rows[3:16][::-1], 0),
    } == first
    again = drawn_by_id(run, prepared, rows, 1)
    assert sum(first[row] != again[row] for row in rows) >= 6


def masked(settings: dict[str, Any], texts: int = 400) -> tuple[Batch, torch.Tensor, Any]:
    """A masked batch of made-up texts, the tokens before, and the vocabulary."""
    from heliostat.encoders.text import TextEncoder

    dice = random.Random(1)
    words = [word for things in SUBJECTS.values() for word in things] + ["unbelievably", "extraordinary"]
    rows = [{"text": " ".join(dice.choices(words, k=20))} for _ in range(texts)]
    encoder = TextEncoder(TextEncoder.Config(preset="tiny", vocab_size=300))
    encoder.fit(iter(rows))
    batch = collate(encoder.encode(rows), np.arange(texts, dtype=np.uint64))
    head = MaskedLM(MaskedLM.Config(**settings))
    spec = encoder.spec()
    return head.prepare(batch, Draws(7, 0), spec), batch.ragged("input_ids").values, spec.vocabulary


@pytest.mark.parametrize("rate", [0.15, 0.3])
@pytest.mark.parametrize("whole_words", [True, False])
def test_the_share_of_masked_tokens_and_what_stands_in_their_places(rate: float, whole_words: bool) -> None:
    batch, before, vocabulary = masked({"rate": rate, "whole_words": whole_words})
    after, places = batch.ragged("input_ids").values, batch.ragged(PLACES).values
    special = torch.isin(before, torch.tensor(vocabulary.special_ids))
    assert abs(len(places) / int((~special).sum()) - rate) < 0.015
    assert torch.equal(batch.ragged(TARGETS).values, before[places])
    assert not special[places].any()
    untouched = torch.ones(len(before), dtype=torch.bool).index_fill(0, places, False)
    assert torch.equal(after[untouched], before[untouched])
    is_mask, is_same = after[places] == vocabulary.mask_id, after[places] == before[places]
    assert abs(float(is_mask.float().mean()) - 0.8) < 0.03
    assert 0.07 < float(is_same.float().mean()) < 0.13
    rest = after[places][~is_mask & ~is_same]
    assert len(rest.unique()) > 50
    assert not torch.isin(rest, torch.tensor(vocabulary.special_ids)).any()
    assert sum(batch.ragged(PLACES).lengths) == len(places)


def test_words_are_masked_whole() -> None:
    batch, before, vocabulary = masked({"rate": 0.3})
    starts = torch.tensor(vocabulary.starts_word())[before]
    hit = torch.zeros(len(before), dtype=torch.bool).index_fill(0, batch.ragged(PLACES).values, True)
    inside = (~starts).nonzero().squeeze(1)
    assert len(inside) > 1000, "the vocabulary is too large for this test: no word has two tokens"
    assert torch.equal(hit[inside], hit[inside - 1])
    apart, *_ = masked({"rate": 0.3, "whole_words": False})
    hit = torch.zeros(len(before), dtype=torch.bool).index_fill(0, apart.ragged(PLACES).values, True)
    assert not torch.equal(hit[inside], hit[inside - 1])


def test_the_rule_of_masks_is_a_setting() -> None:
    batch, _, vocabulary = masked({"random": 0.0, "keep": 0.0})
    assert set(batch.ragged("input_ids").values[batch.ragged(PLACES).values].tolist()) == {vocabulary.mask_id}
    with pytest.raises(ValueError, match=r"random \+ keep must be 1 at most"):
        MaskedLM.Config(random=0.6, keep=0.6)


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


def test_half_of_the_next_sentences_come_from_other_documents(made: Make) -> None:
    run, prepared = made("next_sentence")
    told = [row for epoch in range(8) for row in sentences(run, prepared, epoch)]
    assert 0.45 < np.mean([follows for _, _, follows, _ in told]) < 0.6
    others = {row["next"].lower() for row in prepared.examples("train")}
    for first, second, follows, pair in told:
        assert pair.startswith(first)
        assert second in others
        assert not follows or f"{first} | {second}" == pair
    same = [f"{first} | {second}" == pair for first, second, follows, pair in told if not follows]
    assert np.mean(same) < 0.05  # other documents may hold the same sentence


def test_half_of_the_pairs_are_swapped(made: Make) -> None:
    run, prepared = made("sentence_order")
    told = [row for epoch in range(4) for row in sentences(run, prepared, epoch)]
    assert 0.4 < np.mean([follows for _, _, follows, _ in told]) < 0.6
    for first, second, follows, pair in told:
        assert pair == (f"{first} | {second}" if follows else f"{second} | {first}")


def test_pairs_are_needed_where_pairs_are_asked_for(made: Make, corpus: Path) -> None:
    run, _ = made("bert")
    values = run.dump()
    values["encoder"]["fields"] = ["text"]
    with pytest.raises(RunError, match=r"core.bert reads two neighbouring texts.*encoder.fields=\[text, next\]"):
        prepare(check(values))


def test_a_causal_head_refuses_an_encoder_that_looks_ahead(made: Make) -> None:
    run, _ = made("causal_lm")
    values = run.dump()
    values["encoder"] = {"type": "core.text", "preset": "tiny"}
    with pytest.raises(RunError, match=r"core\.causal_lm needs CausalFeatures and core.text gives TokenFeatures"):
        check(values)


@pytest.mark.parametrize("objective", ["masked_lm", "causal_lm", "denoising"])
def test_documents_end_to_end_see_nothing_of_each_other(made: Make, objective: str) -> None:
    run, prepared = made(objective)
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


def test_a_token_sees_nothing_of_those_that_follow(made: Make) -> None:
    run, prepared = made("causal_lm")
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


def test_the_causal_loss_is_that_of_transformers_own_model(made: Make) -> None:
    from transformers import LlamaForCausalLM

    run, prepared = made("causal_lm")
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


def test_logits_in_pieces_are_logits_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from heliostat.heads import projection

    torch.manual_seed(3)
    states, table, targets = torch.randn(50, 8), torch.randn(20, 8), torch.randint(0, 20, (50,))
    targets[7] = -100
    grads, sums = [], []
    for limit in (2**28, 4 * 20 * 7):
        monkeypatch.setattr(projection, "_LOGIT_BYTES", limit)
        inputs = states.clone().requires_grad_(), table.clone().requires_grad_()
        found = projection.token_sums(*inputs, None, targets)
        found.loss.backward()  # type: ignore[no-untyped-call]
        grads.append([each.grad for each in inputs])
        sums.append(found)
    torch.testing.assert_close(sums[0].loss.detach(), sums[1].loss.detach())
    assert int(sums[0].hits) == int(sums[1].hits)
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_spans_are_masked_by_one_mask_each_and_none_leaves_its_text() -> None:
    from heliostat.heads.denoising import chance, infilled, spans

    begins = np.array([0, 1, 0, 1, 0, 0, 0, 1], dtype=bool)
    sizes = np.array([1, 2, 9, 9, 9, 9, 9, 4])
    covered = spans(begins, sizes, (4, 4))
    assert covered.tolist() == [False, True, True, True, False, False, False, True]
    ids, lengths = infilled(np.arange(10, 18), covered, (4, 4), 3)
    assert ids.tolist() == [10, 3, 14, 15, 16, 3]
    assert lengths.tolist() == [2, 4]
    ids, lengths = infilled(np.arange(4), np.ones(4, dtype=bool), (2, 0, 2), 3)
    assert (ids.tolist(), lengths.tolist()) == ([3, 3], [1, 0, 1])
    dice = np.random.default_rng(1)
    for rate, span in ((0.15, 1), (0.3, 3), (0.5, 5)):
        drawn_sizes = 1 + (dice.random(50_000) * (2 * span - 1)).astype(np.int64)
        share = spans(dice.random(50_000) < chance(rate, span), drawn_sizes, (50_000,)).mean()
        assert abs(share - rate) < 0.02


def test_a_decoder_sees_its_source_and_what_is_written_alone(made: Make) -> None:
    run, prepared = made("denoising")
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


def valid_rows(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "valid/loss" in row]


@pytest.mark.parametrize(
    ("objective", "epochs", "score", "least"),
    [
        ("masked_lm", 20, "masked_accuracy", 0.3),
        ("next_sentence", 24, "accuracy", 0.75),
        ("sentence_order", 12, "accuracy", 0.8),
        ("bert", 20, "masked_accuracy", 0.3),
        ("causal_lm", 10, "accuracy", 0.5),
        ("denoising", 12, "accuracy", 0.4),
    ],
)
def test_the_loss_falls_and_answers_can_be_had(
    made: Make, tmp_path: Path, objective: str, epochs: int, score: str, least: float
) -> None:
    from heliostat.predict import Predictor

    run, prepared = made(objective, dropout=0.0, epochs=epochs, lr=2e-3, schedule="constant", keep_checkpoints=1)
    outcome = fit(run, prepared, LocalWorker(), tmp_path)
    rows = valid_rows(tmp_path)
    assert min(row["valid/loss"] for row in rows) < 0.95 * rows[0]["valid/loss"]
    assert max(row[f"valid/{score}"] for row in rows) > least
    if "valid/perplexity" in rows[0]:
        term = "valid/masked" if objective == "bert" else "valid/loss"
        assert rows[0]["valid/perplexity"] == pytest.approx(np.exp(rows[0][term]), rel=1e-4)
    predictor = Predictor.load(checkpoint.step_folder(tmp_path / "checkpoints", outcome.best.step))
    assert len(predictor.predict(list(predictor.head.samples))) == 2
    predictor.check_golden()


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_a_run_stopped_in_mid_epoch_ends_bit_identical(made: Make, tmp_path: Path, objective: str) -> None:
    run, prepared = made(objective, ema=0.9 if objective == "bert" else None)
    whole = fit(run, prepared, LocalWorker(), tmp_path / "whole")
    assert whole.step > 4
    for stop_at in (1, whole.step // 2, whole.step - 1):
        folder = tmp_path / f"stopped-{stop_at}"
        asked = iter(range(1, 1000))
        with pytest.raises(Stopped, match=f"step {stop_at}"):
            fit(run, prepared, LocalWorker(lambda asked=asked, at=stop_at: next(asked) >= at), folder)
        assert fit(run, prepared, LocalWorker(), folder).best == whole.best
        assert hashes(folder) == hashes(tmp_path / "whole")


def hashes(folder: Path) -> dict[str, str]:
    path = checkpoint.newest(folder / "checkpoints")
    assert path is not None
    files = checkpoint.verify(path)["files"]
    return {name: files[name]["sha256"] for name in sorted(files) if name.endswith((".safetensors", "trainer.json"))}


def test_blanks_are_filled(made: Make) -> None:
    run, prepared = made("masked_lm")
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


def test_a_text_is_written_on_without_its_neighbours(made: Make) -> None:
    run, prepared = made("causal_lm")
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


def test_an_embedding_of_another_width_is_refused() -> None:
    from heliostat.features import TokenFeatures
    from heliostat.heads.projection import embedding_of

    features = TokenFeatures(torch.zeros(1, 4), torch.zeros(3, 4), tokens=None, embedding=None)  # type: ignore[arg-type]
    with pytest.raises(HeliostatError, match="another width than its states"):
        embedding_of(features)
