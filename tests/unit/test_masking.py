"""What is masked: how much, words as a whole, by which rule; and spans, by one mask each."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from heliostat.batch import Batch, Draws
from heliostat.data.collate import collate
from heliostat.heads.masked_lm import MaskedLM
from heliostat.heads.masking import PLACES, TARGETS

WORDS = ["waves", "salt", "boats", "gulls", "sand", "pines", "moss", "deer", "roots", "owls"]


def masked(settings: dict[str, Any], texts: int = 400) -> tuple[Batch, torch.Tensor, Any]:
    """A masked batch of made-up texts, the tokens before, and the vocabulary."""
    from heliostat.encoders.text import TextEncoder

    dice = random.Random(1)
    words = [*WORDS, "unbelievably", "extraordinary"]
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
