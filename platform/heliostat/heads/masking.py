"""Which tokens are masked: whole words by chance, keyed by the example's id, whatever its batch or worker."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from heliostat.batch import Batch, Draws, Ragged
from heliostat.component import Settings
from heliostat.errors import Problem, RunError
from heliostat.features import FeatureSpec, Vocabulary

PLACES, TARGETS = "masked_places", "masked_targets"
"""Columns of a masked batch: where its masked tokens stand, counted through the whole batch, and what they were."""

_WORDS, _FATES, _TOKENS = 1, 2, 3  # streams of random draws: which words, what becomes of a token, which random one

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class MaskSettings(Settings):
    """How many tokens are masked, and what stands in their places."""

    rate: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    """Share of the tokens that are to be found again; 0.15 in BERT, up to 0.3 pays for larger models."""
    whole_words: bool = True
    """Whether all tokens of a word are masked together: the rest of a word gives its pieces away."""
    random: Share = 0.1
    """Share of the masked places that hold a random token instead of the mask."""
    keep: Share = 0.1
    """Share of the masked places that hold the token itself, so that the model may trust no place blindly."""

    @model_validator(mode="after")
    def _one_whole(self) -> Self:
        if self.random + self.keep > 1.0:
            raise ValueError(f"random + keep must be 1 at most; found {self.random:g} + {self.keep:g}.")
        return self


class Masked(NamedTuple):
    """Tokens with some of them masked."""

    inputs: Ids  # [tokens]
    places: Ids  # [masked], rising
    targets: Ids  # [masked], the tokens that stood there


class Masker:
    """Masks the tokens of batches of one vocabulary."""

    def __init__(self, vocabulary: Vocabulary, settings: MaskSettings) -> None:
        self.mask_id = mask_of(vocabulary)
        self.settings = settings
        self.is_special = np.zeros(vocabulary.size, dtype=bool)
        self.is_special[list(vocabulary.special_ids)] = True
        self.starts_word = np.asarray(vocabulary.starts_word(), dtype=bool)
        self.plain_ids = np.flatnonzero(~self.is_special)

    def __call__(self, batch: Batch, column: str, draws: Draws) -> Batch:
        """The batch with its tokens masked anew, and the columns PLACES and TARGETS."""
        tokens = batch.ragged(column)
        masked = self.mask(tokens.values.numpy(), tokens.lengths, batch, column, draws)
        ends = np.cumsum((0, *tokens.lengths))
        counts = np.diff(np.searchsorted(masked.places, ends))
        return batch.with_columns(
            **{
                column: tokens.with_values(_tensor(masked.inputs)),
                PLACES: ragged(masked.places, counts),
                TARGETS: ragged(masked.targets, counts),
            }
        )

    def mask(self, ids: Ids, lengths: Sequence[int], batch: Batch, column: str, draws: Draws) -> Masked:
        """Which of these tokens are masked and by what; `batch` gives the ids that the draws are keyed by."""
        special = self.is_special[ids]
        chance = draws.uniform_like(batch, column, _WORDS)
        if self.settings.whole_words:
            chance = chance[first_of_word(self.starts_word[ids], lengths, special)]
        places = np.flatnonzero((chance < self.settings.rate) & ~special)
        fate = draws.uniform_like(batch, column, _FATES)[places]
        drawn = draws.uniform_like(batch, column, _TOKENS)[places]
        random_ids = self.plain_ids[(drawn * len(self.plain_ids)).astype(np.int64)]
        keep, random = self.settings.keep, self.settings.random
        inputs = ids.copy()
        inputs[places] = np.where(
            fate < keep, ids[places], np.where(fate < keep + random, random_ids, np.int64(self.mask_id))
        )
        return Masked(inputs, places, ids[places])


def first_of_word(starts_word: Flags, lengths: Sequence[int], special: Flags) -> Ids:
    """For each token, where its word begins; no word reaches over a special token or out of its example."""
    starts = starts_word | special
    starts[1:] |= special[:-1]
    starts[_starts(lengths)] = True
    first: Ids = np.maximum.accumulate(np.where(starts, np.arange(len(starts)), 0))
    return first


def _starts(lengths: Sequence[int]) -> Ids:
    """Where the examples that have a token start."""
    sizes = np.asarray(lengths, dtype=np.int64)
    return (np.cumsum(sizes) - sizes)[sizes > 0]


def ragged(values: Ids, lengths: Sequence[int] | Ids) -> Ragged:
    """A ragged column of host memory."""
    import torch

    sizes = tuple(int(length) for length in lengths)
    offsets = torch.tensor((0, *itertools.accumulate(sizes)), dtype=torch.int32)
    return Ragged(_tensor(values), offsets, sizes)


def _tensor(values: Ids) -> Any:
    import torch

    return torch.from_numpy(values)


def mask_of(vocabulary: Vocabulary) -> int:
    """The id of the mask. Raises RunError for a vocabulary without one."""
    if vocabulary.mask_id is None:
        rule = "its vocabulary has no mask token, and this head masks tokens. Take a BERT or RoBERTa model."
        raise RunError([Problem("encoder", rule)])
    return vocabulary.mask_id


def token_column(spec: FeatureSpec, head: str) -> tuple[Vocabulary, str]:
    """The encoder's vocabulary and the column of its tokens. Raises RunError for an encoder that reads no tokens."""
    if spec.vocabulary is None or spec.token_column is None:
        raise RunError([Problem("encoder", f"reads no tokens, and {head} predicts tokens. Take core.text.")])
    return spec.vocabulary, spec.token_column
