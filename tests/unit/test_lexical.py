"""The linear model beside a network: it learns, it is kept, and its scores reach the answers of requests too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from heliostat.errors import DataError
from heliostat.heads.classification import Classification
from heliostat.heads.hierarchy import Hierarchy
from heliostat.heads.lexical import _TERMS, Lexical, LexicalSettings, _counts, _weighted
from heliostat.model import build_model

WORDS = {"cat": ["purr", "whisker", "meow"], "dog": ["bark", "leash", "fetch"], "cow": ["moo", "pasture", "milk"]}


def texts(count: int, seed: int) -> tuple[list[str], list[int]]:
    draw = np.random.default_rng(seed)
    labels = [int(label) for label in draw.integers(0, 3, count)]
    kinds = list(WORDS.values())
    return [" ".join(["the animal", *draw.choice(kinds[label], 2)]) for label in labels], labels


def fitted() -> Lexical:
    return Lexical.fit(*texts(150, 1), 3, LexicalSettings())


def margins(model: Lexical, asked: list[str]) -> np.ndarray:
    return np.array([list(row.values()) for row in model.margins(asked)])


def test_it_finds_the_class_of_texts_that_it_never_saw() -> None:
    asked, labels = texts(60, 2)
    found = margins(fitted(), asked).argmax(1)
    assert (found == labels).all()


def test_terms_weigh_what_scikit_learn_says() -> None:
    asked = ["the cat sat", "the dog sat on the cat", "the the the"]
    counts = _counts(asked)
    rarity = np.log((1 + 3) / (1 + np.bincount(counts.indices, minlength=2 * _TERMS))) + 1
    ours = _weighted(counts, rarity.astype(np.float32))[:, :_TERMS]
    theirs = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\b\w+\b", sublinear_tf=True).fit_transform(asked)
    assert np.allclose(np.sort(ours.toarray(), 1)[:, -8:], np.sort(theirs.toarray(), 1)[:, -8:], atol=1e-6)


def test_what_is_saved_says_the_same(tmp_path: Path) -> None:
    model, (asked, _) = fitted(), texts(5, 3)
    model.save(tmp_path)
    assert np.array_equal(margins(Lexical.load(tmp_path), asked), margins(model, asked))


def test_a_class_that_train_lacks_and_two_classes() -> None:
    asked, labels = texts(90, 4)
    two = Lexical.fit(asked, [min(1, label) for label in labels], 4, LexicalSettings())
    found = margins(two, asked)
    assert (found.argmax(1) == np.minimum(1, labels)).all()
    assert (found[:, 2:] == -1.0).all()
    assert np.allclose(found[:, 0], -found[:, 1])
    with pytest.raises(DataError, match="2 to 200 classes"):
        Lexical.fit(asked, [0] * 90, 1, LexicalSettings())


@pytest.mark.parametrize("kind", [Classification, Hierarchy])
def test_its_scores_decide_where_the_network_knows_nothing(kind: type, tmp_path: Path) -> None:
    from heliostat.data.collate import collate
    from heliostat.data.encode import encode
    from heliostat.encoders.text import TextEncoder

    asked, labels = texts(90, 5)
    names = list(WORDS)
    examples = [
        {"text": text, "label": names[label], "path": [names[label], f"{names[label]}s"]}
        for text, label in zip(asked, labels, strict=True)
    ]
    head = kind(kind.Config(lexical={"weight": 50.0}))
    encoder = TextEncoder(TextEncoder.Config(preset="tiny", vocab_size=330, max_tokens=32))
    for part in (head, encoder):
        part.fit(iter(examples))
    head.save(tmp_path)
    again = kind(kind.Config(lexical={"weight": 50.0}))
    again.load(tmp_path)
    encoded = [row for row in encode(encoder, again, examples) if not isinstance(row, str)]
    batch = collate(encoded, np.arange(len(encoded), dtype=np.uint64))
    answers = build_model(encoder, again).eval().predict(batch)
    found = [row["label"] if kind is Classification else row["path"][0] for row in answers]
    assert found == [names[label] for label in labels]
