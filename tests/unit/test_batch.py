from __future__ import annotations

import numpy as np
import pytest
import torch

from heliostat.batch import Batch, Draws, Ragged


def batch(ids: list[int], lengths: list[int]) -> Batch:
    pieces = [torch.arange(length) + 10 * id for id, length in zip(ids, lengths, strict=True)]
    return Batch(np.array(ids, np.uint64), {"tokens": Ragged.of(pieces), "target": torch.tensor(ids)})


def test_a_ragged_column_knows_its_boundaries() -> None:
    tokens = batch([1, 2, 3], [2, 0, 3]).ragged("tokens")
    assert len(tokens) == 3
    assert tokens.values.tolist() == [10, 11, 30, 31, 32]
    assert tokens.offsets.tolist() == [0, 2, 2, 5]
    assert [piece.tolist() for piece in tokens.split()] == [[10, 11], [], [30, 31, 32]]
    assert tokens.with_values(tokens.values + 1).lengths == tokens.lengths


def test_equal_lengths_stack() -> None:
    assert batch([1, 2], [2, 2]).ragged("tokens").stacked().tolist() == [[10, 11], [20, 21]]


def test_a_batch_tells_its_two_sorts_of_columns_apart() -> None:
    both = batch([1, 2], [2, 1])
    assert len(both) == 2
    assert "target" in both
    assert "mask" not in both
    assert both.dense("target").tolist() == [1, 2]
    with pytest.raises(TypeError, match=r"take batch.ragged\('tokens'\)"):
        both.dense("tokens")
    with pytest.raises(TypeError, match=r"take batch.dense\('target'\)"):
        both.ragged("target")
    more = both.with_columns(mask=both.dense("target") * 0)
    assert "mask" in more
    assert "mask" not in both


def test_what_is_drawn_depends_on_the_example_alone() -> None:
    together, apart = batch([5, 9, 7], [4, 2, 3]), [batch([7], [3]), batch([9], [2]), batch([5], [4])]
    draws = Draws(seed=7, epoch=2)
    whole = np.split(draws.uniform_like(together, "tokens"), [4, 6])
    for place, alone in zip((2, 1, 0), apart, strict=True):
        np.testing.assert_array_equal(whole[place], draws.uniform_like(alone, "tokens"))
        assert draws.uniform(together)[place] == draws.uniform(alone)[0]


def test_another_seed_epoch_or_stream_draws_anew() -> None:
    one = batch([1], [64])
    drawn = [
        draws.uniform_like(one, "tokens", stream)
        for draws, stream in [(Draws(7, 0), 0), (Draws(8, 0), 0), (Draws(7, 1), 0), (Draws(7, 0), 1)]
    ]
    for place, first in enumerate(drawn):
        for second in drawn[place + 1 :]:
            assert not np.isclose(first, second).any()


def test_draws_are_uniform_and_unrelated_between_neighbours() -> None:
    """Kolmogorov's distance of 200,000 draws from the uniform law is below its 0.1 % bound of 1.95 / sqrt(n)."""
    many = batch(list(range(2000)), [100] * 2000)
    drawn = Draws(0, 0).uniform_like(many, "tokens")
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    distance = np.abs(np.sort(drawn) - (np.arange(len(drawn)) + 0.5) / len(drawn)).max()
    assert distance < 1.95 / np.sqrt(len(drawn))
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.01
    examples = Draws(0, 0).uniform(many)
    assert abs(np.corrcoef(examples[:-1], examples[1:])[0, 1]) < 0.08
