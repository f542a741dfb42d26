"""Words of a list, read with the vocabularies of others: each begins with a space, as words of a text do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel, RobertaTokenizer

from heliostat.encoders.words import WordsEncoder

WORDS = [["rain", "over", "the", "north"], ["the", "rain-storm", "don't", "rain"]]
TEXTS = [" ".join(words) for words in WORDS] * 5


def pretrained(folder: Path, steps: Any) -> PreTrainedTokenizerFast:
    """A tiny RoBERTa in `folder` whose vocabulary sets no space in front of a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = steps
    special, alphabet = ["<s>", "<pad>", "</s>"], sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.save_pretrained(folder)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = RobertaConfig(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=40, pad_token_id=1, **sizes)
    RobertaModel(config).save_pretrained(folder)
    return fast


def ids_of(encoder: WordsEncoder) -> list[list[int]]:
    return [row["input_ids"].tolist() for row in encoder.encode([{"words": words} for words in WORDS])]  # type: ignore[union-attr]


def test_ids_are_those_of_transformers_with_a_space_before_each_word(tmp_path: Path) -> None:
    pretrained(tmp_path, pre_tokenizers.ByteLevel(add_prefix_space=False))
    encoder = WordsEncoder(WordsEncoder.Config(pretrained=str(tmp_path), max_tokens=32))
    encoder.fit([])
    model = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    pairs = [tuple(pair) for pair in model["merges"]]
    theirs = RobertaTokenizer(model["vocab"], pairs, unk_token="<pad>", mask_token="<pad>", add_prefix_space=True)
    assert ids_of(encoder) == theirs(WORDS, is_split_into_words=True)["input_ids"]
    assert (
        ids_of(encoder)
        != PreTrainedTokenizerFast.from_pretrained(tmp_path)(WORDS, is_split_into_words=True)["input_ids"]
    )
    kept = tmp_path / "kept"
    kept.mkdir()
    encoder.save(kept)
    again = WordsEncoder(encoder.config)
    again.load(kept)
    assert ids_of(again) == ids_of(encoder)
    assert PreTrainedTokenizerFast.from_pretrained(kept)(WORDS, is_split_into_words=True)["input_ids"] == ids_of(
        encoder
    )


@pytest.mark.parametrize("pattern", [r" ?[\p{L}']+|[^\s\p{L}]+"])
def test_behind_another_step_each_word_has_one_space(tmp_path: Path, pattern: str) -> None:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    fast = pretrained(
        tmp_path, pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    )
    encoder = WordsEncoder(WordsEncoder.Config(pretrained=str(tmp_path), max_tokens=32))
    encoder.fit([])
    assert ids_of(encoder) == [fast(" " + " ".join(words))["input_ids"] for words in WORDS]
