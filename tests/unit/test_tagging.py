"""Tagging: words of several tokens, words that are cut off, and entities counted as seqeval counts them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from seqeval.metrics import f1_score, precision_score, recall_score

from heliostat.baselines.frequent_tags import FrequentTagsBaseline
from heliostat.data.collate import collate
from heliostat.encoders.words import WordsEncoder
from heliostat.errors import DataError
from heliostat.heads.tagging import Tagging
from heliostat.heads.tagging_metrics import tagging_metrics
from heliostat.model import build_model

ROWS = [
    {"words": ["rain", "over", "the", "north", "sea"], "tags": ["O", "O", "B-PLACE", "I-PLACE", "I-PLACE"]},
    {"words": ["Wolfeschlegelsteinhausen", "sleeps"], "tags": ["B-PERSON", "O"]},
    {"words": ["sun"], "tags": ["O"]},
]


def _parts(max_tokens: int = 64) -> tuple[WordsEncoder, Tagging]:
    encoder = WordsEncoder(WordsEncoder.Config(preset="tiny", max_tokens=max_tokens, vocab_size=300))
    encoder.fit(ROWS)
    head = Tagging()
    head.fit(ROWS)
    return encoder, head


def test_a_word_starts_at_its_first_token_and_one_that_is_cut_off_nowhere() -> None:
    encoder, _ = _parts()
    rain, name, sun = (row["word_starts"].tolist() for row in encoder.encode(ROWS))  # type: ignore[union-attr]
    assert rain[0] == name[0] == sun[0] == 1  # behind the special token
    assert len(rain) == 5
    assert name[1] - name[0] > 3
    short, _ = _parts(max_tokens=8)
    assert short.encode(ROWS)[1]["word_starts"].tolist() == [1, -1]  # type: ignore[union-attr]
    assert short.truncated > 0


def test_a_word_that_is_cut_off_is_tagged_outside_and_learned_from_no_more() -> None:
    encoder, head = _parts(max_tokens=8)
    model = build_model(encoder, head).eval()
    encoded = [
        {**asked, **target}
        for asked, target in zip(encoder.encode(ROWS), head.encode(ROWS, encoder.spec()), strict=True)
    ]
    batch = collate(encoded, np.arange(3, dtype=np.uint64))
    with torch.no_grad():
        answers = model.predict(batch)
        loss = model(batch)["loss"]
    assert [len(row["tags"]) for row in answers] == [5, 2, 1]
    assert (answers[1]["tags"][1], answers[1]["confidences"][1]) == ("O", 0.0)
    kept = int((batch.ragged("word_starts").values >= 0).sum())
    assert head.counts(batch) == {"loss": kept}
    assert 0 < kept < 8
    assert float(loss) / kept == pytest.approx(np.log(len(head.tags)), rel=0.1)


def test_scores_are_those_of_seqeval() -> None:
    _, head = _parts()
    rng = np.random.default_rng(5)
    there = [list(rng.choice(head.tags, size)) for size in rng.integers(1, 12, 60)]
    given = [[tag if rng.random() < 0.6 else str(rng.choice(head.tags)) for tag in row] for row in there]
    table = pd.DataFrame({"target_tags": there, "tags": given})
    metrics = tagging_metrics(head.tags)
    assert metrics["entity_f1"](table) == pytest.approx(f1_score(there, given))
    assert metrics["entity_precision"](table) == pytest.approx(precision_score(there, given))
    assert metrics["entity_recall"](table) == pytest.approx(recall_score(there, given))
    by_kind = f1_score(there, given, average=None)  # in the order of the alphabet
    assert [metrics["f1_PERSON"](table), metrics["f1_PLACE"](table)] == pytest.approx(list(by_kind))


def test_the_baseline_knows_words_by_heart() -> None:
    baseline = FrequentTagsBaseline()
    baseline.fit(ROWS, Tagging())
    (answer,) = baseline.predict([{"words": ["north", "wind"]}])
    assert answer["tags"] == ["I-PLACE", "O"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"words": ["a", "b"], "tags": ["O"]}, "2 words and 1 tags"),
        ({"words": ["a"], "tags": ["B-PLAC"]}, "Did you mean 'B-PLACE'"),
    ],
)
def test_tags_that_do_not_fit_are_named(row: dict[str, list[str]], said: str) -> None:
    encoder, head = _parts()
    with pytest.raises(DataError, match=said):
        head.encode([row], encoder.spec())


@pytest.mark.parametrize("words", [None, [], "rain over the sea", [1, 2]])
def test_what_is_no_list_of_words_is_refused(words: object) -> None:
    encoder, _ = _parts()
    with pytest.raises(DataError, match="must be a list of words"):
        encoder.encode([{"words": words}])
