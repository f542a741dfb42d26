"""What an encoder hands to a head, as types: a run whose two parts do not fit is refused before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from heliostat.batch import Ragged


WORD_STARTS = "word_starts"
"""The ragged column of an encoder of words: for each word, where its first token stands in its example; -1: cut off."""


class Vocabulary(Protocol):
    """What a head may know of an encoder's tokens."""

    size: int
    mask_id: int | None
    special_ids: tuple[int, ...]

    def ids(self, text: str) -> Sequence[int]:
        """The ids of a text, without special ones."""

    def text(self, ids: Sequence[int]) -> str:
        """The text that these ids stand for, special ids left out."""

    def starts_word(self) -> Sequence[bool]:
        """For each id, whether it starts a word: [size]. For masking of whole words."""


@dataclass(frozen=True)
class FeatureSpec:
    """The shape of an encoder's features, known once it is fitted and before it computes."""

    dim: int
    """Width of a vector of features."""
    vocabulary: Vocabulary | None = None
    """The encoder's tokens, for heads that predict tokens; None where there are none."""
    token_column: str | None = None
    """The ragged column of a batch that holds these tokens, for heads whose `prepare` changes them (masking)."""
    target_vocabulary: Vocabulary | None = None
    """The decoder's tokens, where the encoder owns a decoder."""
    pair_column: str | None = None
    """The column that says where the second text of a pair begins in its example; None where there is one text."""
    max_tokens: int | None = None
    """The most tokens of one example; None where the encoder takes any number."""


@dataclass(frozen=True)
class Features:
    """The root of all features; a head that needs no more than this takes any encoder."""


@dataclass(frozen=True)
class PooledFeatures(Features):
    """One vector an example."""

    pooled: Tensor  # [examples, dim]


@dataclass(frozen=True)
class TabularFeatures(PooledFeatures):
    """One vector a record, and a way to ask what it would be if a field were not known."""

    fields: tuple[str, ...] = ()
    """The fields of the record that were read."""
    without: Callable[[str], Tensor] | None = field(default=None)
    """The vectors as if a field were missing in every example: [examples, dim]. What reasons are made of."""


@dataclass(frozen=True)
class TokenFeatures(PooledFeatures):
    """One vector a token beside the pooled one; tokens of all examples stand end to end."""

    states: Tensor  # [tokens, dim]
    tokens: Ragged
    """The token ids that went in, with the boundaries of the examples."""
    embedding: Tensor | None = field(default=None)  # [vocabulary, dim]
    """The input embedding, for heads that tie their output projection to it."""


@dataclass(frozen=True)
class CausalFeatures(TokenFeatures):
    """States that are made of their own token and those before it, so that each may be asked for the next one."""

    reader: Callable[[Ragged], Tensor] | None = field(default=None)
    """The states of other tokens by the same encoder, [tokens, dim]: what writing on asks for, token after token."""


@dataclass(frozen=True)
class SegmentFeatures(TokenFeatures):
    """One vector for each of the texts that an example is made of; those of all examples stand end to end."""

    segments: Tensor | None = field(default=None)  # [texts, dim]
    counts: tuple[int, ...] = ()
    """Texts of each example."""


class Decoder(Protocol):
    """The decoding half of a sequence-to-sequence encoder."""

    start_id: int
    end_id: int

    def logits(self, targets: Ragged) -> Tensor:
        """Scores of the token that follows each place of `targets`, given the source: [target tokens, vocabulary]."""


class Writing(Protocol):
    """Texts that a decoder is writing, with what it remembers of them, so that each token costs one place."""

    def step(self, tokens: Tensor) -> Tensor:
        """Scores of the token that follows when each text goes on with its token: [texts] -> [texts, vocabulary]."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these texts in this order; a text may be dropped, or stand several times: [new texts]."""


@runtime_checkable
class WritingDecoder(Protocol):
    """A decoder that remembers what it has written; searches use it, and the loss needs no table of all scores."""

    start_id: int
    end_id: int

    def hidden(self, targets: Ragged) -> Tensor:
        """The states whose products with the embedding are `logits`: [target tokens, dim]."""

    def logits(self, targets: Ragged) -> Tensor:
        """Scores of the token that follows each place of `targets`, given the source: [target tokens, vocabulary]."""

    def begin(self) -> Writing:
        """One text a source, with nothing written yet; the first `step` takes `start_id`."""


@dataclass(frozen=True)
class Seq2SeqFeatures(TokenFeatures):
    """Encoded sources with access to the decoder that reads them. The encoder owns the decoder, the head its use."""

    decoder: Decoder | None = field(default=None)


@dataclass(frozen=True)
class ItemFeatures(CausalFeatures):
    """States of histories of items. `tokens` are what was read, `embedding` has a row for every item there is."""

    earlier: Ragged | None = field(default=None)
    """Items of each history that were too long ago to be read, for heads that leave out what a user knows."""
