"""Corpora: files of text with their document boundaries, cut into chunks and pairs that never cross them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliostat.adapters import documents as adapter
from heliostat.adapters.documents import Documents, num_words, packed, split_sentences
from heliostat.component import Row
from heliostat.data.prepare import prepare
from heliostat.data.sources import open_source
from heliostat.errors import DataError, RejectedRecord
from heliostat.run import Run, check

POEM = 'He said "Go." She went. It rained, e.g. on Monday!\n\nThe end (of it.) Then nothing…'


def documents(**settings: Any) -> Documents:
    return Documents(Documents.Config(**settings))


def texts(source: str, base: Path) -> list[Any]:
    return [row["text"] if isinstance(row, dict) else row for _, row in open_source(source, base).rows()]


def run_on(source: Path, **settings: Any) -> Run:
    return check(
        {
            "name": "corpus",
            "data": {
                "adapter": {"type": "core.documents", **settings.pop("adapter", {})},
                "source": str(source),
                "split": settings.pop("split", {"valid": 0.3, "test": 0}),
                "max_rejected": 0.5,
            },
            "encoder": {"type": "core.text", "preset": "tiny", "vocab_size": 300, "max_tokens": 64, **settings},
            "head": "core.masked_lm",
        }
    )


def test_sentences_end_where_they_end_and_lose_nothing() -> None:
    found = split_sentences(POEM)
    assert found == [
        'He said "Go."', "She went.", "It rained, e.g. on Monday!", "The end (of it.)", "Then nothing…",
    ]  # fmt: skip
    assert "".join(found).replace(" ", "") == "".join(POEM.split())
    assert split_sentences("今日は雨。明日も。") == ["今日は雨。", "明日も。"]


@pytest.mark.parametrize("max_words", [8, 13, 40])
def test_chunks_hold_all_words_and_no_more_than_asked_for(max_words: int) -> None:
    sentences = [f"S{number} " + "word " * (number % 21) + "end." for number in range(40)]
    chunks = packed(sentences, max_words)
    assert all(0 < num_words(chunk) <= max_words for chunk in chunks)
    assert " ".join(chunks).split() == " ".join(sentences).split()


def test_pairs_are_neighbours_of_one_document() -> None:
    adapter = documents(give="pairs", max_words=8)
    text = " ".join(f"W{number} a b c." for number in range(7))
    pairs = list(adapter.examples(iter([{"text": text}])))
    assert [(pair["text"][:2], pair["next"][:2]) for pair in pairs] == [
        ("W0", "W1"),
        ("W2", "W3"),
        ("W4", "W5"),
        ("W5", "W6"),
    ]
    (short,) = documents(give="pairs").examples(iter([{"text": "One here. Two is longer than one."}]))
    assert (short["text"], short["next"]) == ("One here.", "Two is longer than one.")
    assert list(adapter.examples(iter([{"text": "Alone."}]))) == []


def test_records_of_one_document_are_joined_and_others_are_not() -> None:
    rows: list[Row] = [{"id": 1, "text": "A b."}, {"id": 1, "text": "C d."}]
    (joined,) = documents(document="id").examples(iter(rows))
    assert joined == {"text": "A b. C d.", "document": "1"}
    assert documents(document="id").group_by == "id"
    assert documents().group_by is None
    with pytest.raises(RejectedRecord, match="text: is missing"):
        list(documents().examples(iter([{"text": None}])))


def test_a_text_file_is_a_document_or_blocks_or_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffone\ntwo\n\n\nthree\n")
    (tmp_path / "b.txt").write_text("four\n")
    assert texts("a.txt", tmp_path) == ["one\ntwo\n\n\nthree\n"]
    assert texts("a.txt#documents=block", tmp_path) == ["one\ntwo", "three"]
    assert texts(".#documents=line", tmp_path) == ["one", "two", "three", "four"]
    places = [place.row for place, _ in open_source("a.txt#documents=block", tmp_path).rows()]
    assert places == [1, 5]
    (tmp_path / "c.csv").write_text("text\nfive\n")
    assert texts(".", tmp_path) == ["five"], "a text beside tables explains them"
    with pytest.raises(DataError, match=r"'documents' has no effect on 'c.csv'"):
        open_source("c.csv#documents=line", tmp_path)
    (tmp_path / "d.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"byte 3 \(line 1\) is not utf-8"):
        texts("d.txt", tmp_path)


def test_a_document_stands_in_one_split_and_none_is_tested_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(12):
        text = " ".join(f"Sentence {place} of document {number} says little." for place in range(9))
        (corpus / f"{number}.txt").write_text(text)
    (corpus / "empty.txt").write_text("")
    prepared = prepare(run_on(corpus, adapter={"max_words": 20}))
    assert prepared.counts["test"] == 0
    assert min(prepared.counts["train"], prepared.counts["valid"]) > 0
    sides = {split: {row["document"] for row in prepared.examples(split)} for split in ("train", "valid", "test")}  # type: ignore[arg-type]
    assert not sides["train"] & sides["valid"]
    assert len(sides["train"] | sides["valid"]) == 12
    rejected = [json.loads(line) for line in (prepared.folder / "rejected.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in rejected] == ["text: is missing"]
    with pytest.raises(DataError, match="no example falls into valid"):
        prepare(run_on(corpus, split={"valid": 0, "test": 0.3}))


@given(text=st.text(st.one_of(st.sampled_from(" \n\u2e80\u2e81。中あ한😀\U0010ffff"), st.characters()), max_size=40))
def test_words_are_counted_by_spaces_or_by_signs(text: str) -> None:
    assert num_words(text) == max(len(text.split()), sum(ord(sign) > 0x2E80 for sign in text) // 2)


@given(st.lists(st.sampled_from([*" .!?…\"'”)]\n\n\t\u00a0。aAbÉ1_(“", "  ", ". ", '." ']), max_size=25).map("".join))
def test_texts_without_blank_lines_are_cut_as_all_are(text: str) -> None:
    whole = [" ".join(part.split()) for part in adapter._SENTENCE_END.split(text) if part and not part.isspace()]
    assert split_sentences(text) == whole
