"""Sequence to sequence: decoding with memory, subword noise, what is refused, baselines, and a model that learns."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heliostat import checkpoint
from heliostat.baselines.copy import CopyBaseline
from heliostat.baselines.nearest_text import NearestTextBaseline
from heliostat.baselines.word_table import WordTableBaseline
from heliostat.batch import Batch, Draws, Ragged
from heliostat.data.collate import collate
from heliostat.data.prepare import prepare
from heliostat.encoders.seq2seq_text import Seq2SeqTextEncoder
from heliostat.errors import DataError, HeliostatError, PredictError, RunError
from heliostat.features import Seq2SeqFeatures
from heliostat.heads.seq2seq import Seq2Seq
from heliostat.predict import Predictor
from heliostat.run import check
from heliostat.train.loop import fit
from heliostat.train.worker import LocalWorker, set_threads

WORDS = {"red": "rot", "blue": "blau", "one": "eins", "two": "zwei", "cat": "Katze", "dog": "Hund", "big": "groß"}


def rows(count: int, seed: int = 1) -> list[dict[str, str]]:
    """Word-by-word translations."""
    dice = random.Random(seed)
    texts = [[dice.choice([*WORDS]) for _ in range(dice.randint(2, 6))] for _ in range(count)]
    return [{"text": " ".join(text), "answer": " ".join(WORDS[word] for word in text)} for text in texts]


def encoder(**settings: Any) -> Seq2SeqTextEncoder:
    made = Seq2SeqTextEncoder(
        Seq2SeqTextEncoder.Config(
            preset="tiny", target="answer", vocab_size=330, dropout=0.0, **{"max_tokens": 64, **settings}
        )
    )
    made.fit(rows(60))
    return made


def batch_of(made: Seq2SeqTextEncoder, examples: list[dict[str, str]]) -> Batch:
    head = Seq2Seq(Seq2Seq.Config())
    pairs = zip(made.encode(examples), head.encode(examples, made.spec()), strict=True)
    return collate([{**source, **target} for source, target in pairs], np.arange(len(examples), dtype=np.uint64))


def test_what_is_saved_is_an_mbart_that_transformers_reads(tmp_path: Path) -> None:
    from transformers import MBartForConditionalGeneration

    made, examples = encoder(decoder_layers=1), rows(3, seed=9)
    module = made.module().eval()
    made.save(tmp_path)
    made.save_weights(module, tmp_path, module.state_dict())
    theirs, told = MBartForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not told["unexpected_keys"]
    batch = batch_of(made, examples)
    with torch.no_grad():
        ours = module(batch).decoder.logits(batch.ragged("answer")).split(list(batch.ragged("answer").lengths))
        for source, target, logits in zip(
            batch.ragged("input_ids").split(), batch.ragged("answer").split(), ours, strict=True
        ):
            alone = theirs.eval()(input_ids=source[None], decoder_input_ids=target[None]).logits[0]
            assert torch.allclose(logits, alone, atol=1e-4)


def test_a_decoder_that_remembers_scores_as_one_that_reads_all_again() -> None:
    made = encoder()
    module, batch = made.module().eval(), batch_of(made, rows(4, seed=2))
    with torch.no_grad():
        decoder = module(batch).decoder
        writing = decoder.begin()
        texts = torch.tensor([[decoder.start_id, 9, 12], [decoder.start_id, 30, 8], [decoder.start_id, 5, 5]])
        writing.keep(torch.tensor([2, 0, 3]))
        stepped = [writing.step(column) for column in texts.t()]
        writing.keep(torch.tensor([1, 1]))
        again = writing.step(torch.tensor([7, 8]))
        sources = batch.ragged("input_ids").split()
        kept = module(Batch(batch.ids[:3], {"input_ids": Ragged.of([sources[k] for k in (2, 0, 3)])}))
        whole = kept.decoder.logits(Ragged.of(list(texts))).view(3, 3, -1)
        assert all(torch.allclose(one, whole[:, place], atol=1e-5) for place, one in enumerate(stepped))
        grown = torch.cat([texts[1], torch.tensor([8])])
        lone = module(Batch(batch.ids[:1], {"input_ids": Ragged.of([sources[0]])}))
        assert torch.allclose(again[1], lone.decoder.logits(Ragged.of([grown]))[-1], atol=1e-5)


def test_subword_noise_spells_texts_anew_each_epoch_and_not_in_validation() -> None:
    made, examples = encoder(), rows(6, seed=4)
    head, spec, batch = Seq2Seq(Seq2Seq.Config(subword_noise=0.3)), made.spec(), batch_of(made, examples)
    vocabulary = spec.target_vocabulary
    assert vocabulary
    first, second = (head.prepare(batch, Draws(1, epoch), spec) for epoch in (0, 1))
    assert sum(first.ragged("input_ids").lengths) > sum(batch.ragged("input_ids").lengths)
    assert first.ragged("input_ids").lengths != second.ragged("input_ids").lengths
    for noised in (first, second):
        for field, column in (("text", "input_ids"), ("answer", "answer")):
            spelled = [vocabulary.text(ids.tolist()) for ids in noised.ragged(column).split()]
            assert spelled == [example[field] for example in examples]
    assert head.prepare(batch, Draws(1, 0, is_training=False), spec) is batch


def test_noise_never_makes_a_text_longer_than_the_encoder_reads() -> None:
    made = encoder(max_tokens=12)
    examples = [example for example in rows(30, seed=4) if len(made.encode([example])[0]["input_ids"]) <= 10]
    head, spec = Seq2Seq(Seq2Seq.Config(subword_noise=0.45)), made.spec()
    noised = head.prepare(batch_of(made, examples), Draws(1, 0), spec)
    assert max(noised.ragged("input_ids").lengths) <= 12
    assert max(noised.ragged("answer").lengths) <= 10


def test_a_long_text_is_cut_or_refused() -> None:
    long = {"text": "red cat " * 60}
    assert len(encoder().encode([long])[0]["input_ids"]) == 64
    with pytest.raises(DataError, match="more than 64 tokens"):
        encoder(long="refuse").encode([long])


@pytest.mark.parametrize("answer", ["", None, "one " * 100])
def test_an_answer_that_cannot_be_learned_is_refused(answer: Any) -> None:
    with pytest.raises(DataError, match="answer"):
        Seq2Seq(Seq2Seq.Config()).encode([{"text": "one", "answer": answer}], encoder().spec())


def test_the_vocabulary_is_learned_from_both_sides_and_keeps_case_and_signs() -> None:
    made = encoder()
    vocabulary = made.spec().target_vocabulary
    assert vocabulary
    assert len(vocabulary.ids("Katze")) < 3
    for text in ("Größe … „Öffnen“", "把文件 A1，复制", "<b>%1</b>"):
        assert vocabulary.text(vocabulary.ids(text)) == text


def test_an_encoder_without_decoder_is_refused() -> None:
    from heliostat.encoders.text import TextEncoder

    text = TextEncoder(TextEncoder.Config(preset="tiny", vocab_size=330))
    text.fit(rows(20))
    with pytest.raises(RunError, match="no decoder"):
        Seq2Seq(Seq2Seq.Config()).module(text.spec())


def test_a_decoder_without_memory_is_refused_by_name() -> None:
    made = encoder()
    features = Seq2SeqFeatures(torch.zeros(1, 4), torch.zeros(1, 4), Ragged.of([torch.zeros(1)]), None, None)
    with pytest.raises(HeliostatError, match="WritingDecoder"):
        Seq2Seq(Seq2Seq.Config()).module(made.spec()).predict(features, Batch(np.zeros(1, dtype=np.uint64)))


def test_baselines_copy_and_remember() -> None:
    known = [{"text": "red cat", "answer": "rote Katze"}, {"text": "big blue dog", "answer": "großer blauer Hund"}]
    head = Seq2Seq(Seq2Seq.Config())
    for baseline, answer in ((CopyBaseline(), "a blue dog"), (NearestTextBaseline(), "großer blauer Hund")):
        baseline.fit(known, head)
        (row,) = baseline.predict([{"text": "a blue dog"}])
        assert row["answer"] == answer
        head.gives.model_validate(row)
    with pytest.raises(DataError, match="call fit first"):
        NearestTextBaseline().predict([{"text": "red"}])


def test_the_word_table_learns_which_word_stands_for_which() -> None:
    head, table = Seq2Seq(Seq2Seq.Config()), WordTableBaseline()
    with pytest.raises(DataError, match="call fit first"):
        table.predict([{"text": "red"}])
    turned = [{"text": row["text"], "answer": " ".join(reversed(row["answer"].split()))} for row in rows(200)]
    table.fit(turned, head)
    (row,) = table.predict([{"text": "two big, red  unicorns."}])
    assert row["answer"] == "zwei groß, rot  unicorns."
    head.gives.model_validate(row)
    with pytest.raises(DataError, match="short enough"):
        WordTableBaseline(WordTableBaseline.Config(max_words=1)).fit(turned, head)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a model that has learned to translate word by word."""
    set_threads(1)
    folder = tmp_path_factory.mktemp("seq2seq")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(1500)))
    run = check(
        {
            "name": "words",
            "data": {
                "adapter": "core.columns",
                "source": str(folder / "pairs.jsonl"),
                "split": {"valid": 0.05, "test": 0.05},
            },
            "encoder": {"type": "core.seq2seq_text", "preset": "tiny", "target": "answer", "vocab_size": 330,
                        "max_tokens": 48, "dropout": 0.0, "long": "refuse"},
            "head": {"type": "core.seq2seq", "written_share": 1.0, "beams": 3},
            "train": {"epochs": 6, "lr": 1e-2, "tokens_per_batch": 1200, "precision": "fp32", "trackers": []},
        }
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELIOSTAT_HOME", str(folder))
        fit(run, prepare(run), LocalWorker(), folder / "run")
    newest = checkpoint.newest(folder / "run" / "checkpoints")
    assert newest
    return newest


def test_it_learns_to_translate_and_says_so_in_validation(trained: Path) -> None:
    rows_of = [json.loads(line) for line in (trained.parents[1] / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows_of if "valid/bleu" in row][-1]
    assert last["valid/bleu"] > 80
    assert last["valid/perplexity"] < 1.5
    (answer,) = Predictor.load(trained).predict([{"text": "two big red cat"}])
    assert answer["answer"] == "zwei groß rot Katze"
    assert [beam["score"] for beam in answer["beams"]] == sorted((b["score"] for b in answer["beams"]), reverse=True)


def test_an_answer_does_not_depend_on_its_batch(trained: Path) -> None:
    predictor = Predictor.load(trained)
    questions = [{"text": row["text"]} for row in rows(12, seed=8)]
    together = predictor.predict(questions)
    alone = [predictor.predict([question])[0] for question in questions]
    assert [row["answer"] for row in together] == [row["answer"] for row in alone]
    assert np.allclose([row["score"] for row in together], [row["score"] for row in alone], atol=1e-4)


@pytest.mark.parametrize("text", ["", "  \n", "cat " * 200, "\ud800", 7, None])
def test_a_bad_request_is_refused_and_names_the_field(trained: Path, text: Any) -> None:
    with pytest.raises(PredictError, match="text"):
        Predictor.load(trained).predict([{"text": text}])


@pytest.mark.parametrize(
    ("instance", "status"),
    [({"text": "red cat"}, 200), ({"text": "cat " * 200}, 422), ({"text": ""}, 422), ({"text": "ok", "to": "fr"}, 422)],
)
def test_over_http_a_request_is_answered_or_refused_and_never_fails(
    trained: Path, instance: dict[str, str], status: int
) -> None:
    from fastapi.testclient import TestClient

    from heliostat.serve.app import build_app
    from heliostat.serve.guard import Access
    from heliostat.serve.schema import Served
    from heliostat.serve.token import allowed_hosts

    app = build_app(Predictor.load(trained), Served("words", 1), access=Access(hosts=allowed_hosts("127.0.0.1")))
    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        reply = client.post("/v1/models/words:predict", json={"instances": [instance]})
    assert reply.status_code == status, reply.text
    if status == 200:
        assert reply.json()["predictions"][0]["answer"] == "rot Katze"
    else:
        assert reply.json()["error"]["field"].startswith("instances[0]")
