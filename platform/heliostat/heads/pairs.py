"""Pairs of texts as they stand in a batch: the second one put in place of another, or both in the other order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from heliostat.batch import Batch
from heliostat.errors import Problem, RunError
from heliostat.features import FeatureSpec
from heliostat.heads.masking import ragged, token_column

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class PairColumns(NamedTuple):
    """Where a batch keeps its pairs."""

    tokens: str
    start: str
    """Where the second text begins in its example."""
    special_ids: tuple[int, ...]
    max_tokens: int | None

    @classmethod
    def of(cls, spec: FeatureSpec, head: str) -> PairColumns:
        """Raises RunError for an encoder that reads single texts."""
        vocabulary, tokens = token_column(spec, head)
        if spec.pair_column is None:
            rule = f"{head} reads two neighbouring texts, and this encoder one. Set encoder.fields=[text, next]."
            raise RunError([Problem("encoder.fields", rule)])
        return cls(tokens, spec.pair_column, tuple(vocabulary.special_ids), spec.max_tokens)


class Pair(NamedTuple):
    """The tokens of one pair, special ones included."""

    ids: Ids
    start: int
    """Where the second text begins."""


def pairs_of(batch: Batch, columns: PairColumns) -> list[Pair]:
    """The pairs of a batch."""
    tokens = batch.ragged(columns.tokens)
    pieces = np.split(tokens.values.numpy(), np.cumsum(tokens.lengths)[:-1])
    return [Pair(ids, int(start)) for ids, start in zip(pieces, batch.dense(columns.start).tolist(), strict=True)]


def with_second(pair: Pair, other: Pair, max_tokens: int | None) -> Pair:
    """The first text of `pair`, followed by the second of `other`; one that is too long keeps its last token."""
    ids = np.concatenate([pair.ids[: pair.start], other.ids[other.start :]])
    if max_tokens is not None and len(ids) > max_tokens:
        ids = np.concatenate([ids[: max_tokens - 1], ids[-1:]])
    return Pair(ids, pair.start)


def swapped(pair: Pair, special_ids: Sequence[int]) -> Pair:
    """The two texts in the other order, with the special tokens before, between and behind them where they were."""
    special = np.isin(pair.ids, special_ids)
    first, second = special[: pair.start], special[pair.start :]
    before, between, behind = _run(first), _run(first[::-1]), _run(second[::-1])
    if before == len(first) or behind == len(second):  # one of the texts has no token
        return pair
    split, end = len(first) - between, len(pair.ids) - behind
    texts = pair.ids[before:split], pair.ids[pair.start : end]
    ids = np.concatenate([pair.ids[:before], texts[1], pair.ids[split : pair.start], texts[0], pair.ids[end:]])
    return Pair(ids, before + len(texts[1]) + between)


def _run(flags: Flags) -> int:
    """How many flags are set before the first that is not."""
    return int(np.argmin(flags)) if not flags.all() else len(flags)


def changed(batch: Batch, columns: PairColumns, chosen: Flags, change: Callable[[int, Pair], Pair]) -> Batch:
    """The batch in which the `chosen` pairs are what `change(place, pair)` makes of them."""
    import torch

    pairs = pairs_of(batch, columns)
    for place in np.flatnonzero(chosen).tolist():
        pairs[place] = change(place, pairs[place])
    values = np.concatenate([pair.ids for pair in pairs])
    batch = batch.with_columns(**{columns.tokens: ragged(values, [len(pair.ids) for pair in pairs])})
    return batch.with_columns(**{columns.start: torch.tensor([pair.start for pair in pairs])})
