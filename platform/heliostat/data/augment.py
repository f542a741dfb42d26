"""Words of train examples hidden or swapped, drawn anew in each epoch by (seed, epoch, example id)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.batch import Batch, Draws
from heliostat.errors import Problem, RunError
from heliostat.features import FeatureSpec
from heliostat.heads.masking import first_of_word
from heliostat.run.cleaning import AugmentSettings

Ids = npt.NDArray[np.int64]

_DROP, _SWAP = 104, 105  # streams of random draws


class Augmenter:
    """Changes the tokens of batches of one vocabulary. The count of tokens stays, so that the plan's budget holds."""

    def __init__(self, settings: AugmentSettings, spec: FeatureSpec) -> None:
        """Raises RunError for an encoder without tokens, or for `drop` without a mask token."""
        if spec.vocabulary is None or spec.token_column is None:
            raise RunError([Problem("train.augment", "changes words, and the encoder reads none. Leave it out.")])
        if settings.drop and spec.vocabulary.mask_id is None:
            rule = "hides words behind the mask token, which this vocabulary lacks. Take train.augment.swap."
            raise RunError([Problem("train.augment.drop", rule)])
        self.settings = settings
        self.column = spec.token_column
        self.mask_id = spec.vocabulary.mask_id
        self.is_special = np.zeros(spec.vocabulary.size, dtype=bool)
        self.is_special[list(spec.vocabulary.special_ids)] = True
        self.starts_word = np.asarray(spec.vocabulary.starts_word(), dtype=bool)

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        """The batch with words hidden and swapped; special tokens and the ends of examples stay where they are."""
        tokens = batch.ragged(self.column)
        if not len(tokens.values):
            return batch
        ids: Ids = tokens.values.numpy().copy()
        special = self.is_special[ids]
        first = first_of_word(self.starts_word[ids], tokens.lengths, special)
        if self.settings.drop and self.mask_id is not None:
            chance = draws.uniform_like(batch, self.column, _DROP)[first]
            ids[(chance < self.settings.drop) & ~special] = self.mask_id
        if self.settings.swap:
            examples = np.repeat(np.arange(len(tokens.lengths)), tokens.lengths)
            chance = draws.uniform_like(batch, self.column, _SWAP)
            ids = ids[swapped(first, special, examples, chance < self.settings.swap)]
        return batch.with_columns(**{self.column: tokens.with_values(_tensor(ids))})


def swapped(
    first: Ids, special: npt.NDArray[np.bool_], examples: Ids, chosen: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Where each token comes from when chosen words change places with the next of their example: [tokens].

    `first` is the place where a token's word begins. A word moves once at most, and none passes a special token.
    """
    starts = np.flatnonzero(first == np.arange(len(first)))
    owner, is_special = examples[starts], special[starts]
    can = np.zeros(len(starts), dtype=bool)
    can[:-1] = (owner[:-1] == owner[1:]) & ~is_special[:-1] & ~is_special[1:] & chosen[starts[:-1]]
    can[1:] &= ~can[:-1]
    ranks = np.arange(len(starts))
    places = np.flatnonzero(can)
    ranks[places], ranks[places + 1] = places + 1, places
    word = np.searchsorted(starts, first)
    return np.argsort(ranks[word], kind="stable")


def _tensor(values: Ids) -> Any:
    import torch

    return torch.from_numpy(values)
