"""Counts of tokens on CPUs: few different ones, little more than asked for, and no trace of it in what comes out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heliostat.data.collate import collate
from heliostat.encoders.text import TextEncoder
from heliostat.shapes import familiar, fill_rows, filled

CPU = torch.device("cpu")


def test_familiar_sizes_are_few_and_little_greater() -> None:
    sizes = range(1, 5000)
    found = [familiar(size) for size in sizes]
    assert all(0 <= more - size < max(16, size / 16) for size, more in zip(sizes, found, strict=True))
    assert len({more for more in found if 1024 < more <= 2048}) == 16
    assert [familiar(more) for more in found] == found


@pytest.mark.parametrize("lengths", [(), (5,), (1, 1, 1), (3, 200, 7), (2048,)])
def test_what_fills_is_no_longer_than_the_longest(lengths: tuple[int, ...]) -> None:
    full = filled(lengths, CPU)
    assert full[: len(lengths)] == lengths
    assert sum(full) == familiar(sum(lengths or (1,)))
    assert all(0 < more <= max(1, *lengths, 1) for more in full[len(lengths) :])
    assert filled(lengths, torch.device("meta")) == (lengths or (1,))


def test_rows_are_filled_with_zeros() -> None:
    rows = torch.ones(3, 2)
    assert fill_rows(rows, 5).tolist() == [[1, 1]] * 3 + [[0, 0]] * 2
    assert fill_rows(rows, 3) is rows


def test_an_example_comes_out_alike_whatever_stands_beside_it() -> None:
    encoder = TextEncoder(TextEncoder.Config(preset="tiny", vocab_size=330, max_tokens=32))
    encoder.fit([{"text": "the quick brown fox jumps over the lazy dog"}] * 3)
    torch.manual_seed(1)
    module = encoder.module().eval()
    draw = np.random.default_rng(2)
    rows = [{"input_ids": draw.integers(5, 60, length).astype(np.int32)} for length in (32, 3, 11, 19, 32, 1)]
    together = module(collate(rows, np.arange(6, dtype=np.uint64)))
    for place, row in enumerate(rows):
        alone = module(collate([row], np.arange(1, dtype=np.uint64)))
        assert alone.states.shape == (len(row["input_ids"]), 32)
        assert torch.allclose(together.pooled[place], alone.pooled[0], atol=1e-5)
