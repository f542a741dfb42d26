"""Two neighbouring texts: does the second follow the first, or are they the wrong way round?"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from heliostat.batch import Batch, Draws, Encoded
from heliostat.component import Row, Settings
from heliostat.features import Features, FeatureSpec, TokenFeatures
from heliostat.heads.pairs import PairColumns, changed, pairs_of, swapped, with_second
from heliostat.plugin import Record, Tally, TaskHead

if TYPE_CHECKING:
    from torch import nn

DOCUMENT, FOLLOWS = "document", "follows"
"""Columns of a batch: the number of an example's document, and whether its second text follows: [examples]."""

_COIN = 11  # the stream of random draws


class Neighbours(Record):
    """Two texts, of which the second may follow the first."""

    text: str = Field(min_length=1, max_length=20_000, pattern=r"\S", description="A text.")
    next: str = Field(min_length=1, max_length=20_000, pattern=r"\S", description="What may follow it.")


class Follows(Record):
    """Whether the second text follows the first."""

    follows: bool = Field(description="Whether it is more probable than not.")
    probability: float = Field(description="The probability that it follows, 0 to 1.")


class NextSentence(TaskHead):
    """Tells the text that follows from one of another document, drawn anew in each epoch (Devlin et al. 2019)."""

    class Config(Settings):
        """There is nothing to set."""

    needs: ClassVar[type[Features]] = TokenFeatures
    takes: ClassVar[type[Record]] = Neighbours
    gives: ClassVar[type[Record]] = Follows
    draws_partners = True
    samples: ClassVar[tuple[Row, ...]] = (
        {"text": "The dress arrived on Monday.", "next": "It was too small, so I sent it back."},
        {"text": "The dress arrived on Monday.", "next": "Serum levels were measured after six weeks."},
    )

    def encode(self, examples: Sequence[Row], spec: FeatureSpec) -> list[Encoded]:
        """The number of each example's `document`. Raises RunError for an encoder that reads single texts."""
        PairColumns.of(spec, "core.next_sentence")
        return [{DOCUMENT: document_number(example)} for example in examples]

    def prepare(self, batch: Batch, draws: Draws, spec: FeatureSpec) -> Batch:
        """Give half of the examples the second text of their partner, unless it is of the same document."""
        return replaced_by_chance(batch, draws, PairColumns.of(spec, "core.next_sentence"))

    def counts(self, batch: Batch) -> dict[str, float]:
        """The pairs."""
        return {"loss": float(len(batch))}

    def module(self, spec: FeatureSpec) -> nn.Module:
        """Two layers over the state of the first token."""
        from heliostat.heads.sentences_module import SentencesModule

        PairColumns.of(spec, "core.next_sentence")
        return SentencesModule(spec.dim)

    def scores(self, tally: Tally) -> dict[str, float]:
        """The share of pairs that are told right."""
        return {"accuracy": sentence_accuracy(tally)}


class SentenceOrder(NextSentence):
    """Tells two neighbouring texts in order from the same two swapped, anew in each epoch (Lan et al. 2020)."""

    draws_partners = False
    samples: ClassVar[tuple[Row, ...]] = (
        {"text": "The dress arrived on Monday.", "next": "It was too small, so I sent it back."},
        {"text": "It was too small, so I sent it back.", "next": "The dress arrived on Monday."},
    )

    def encode(self, examples: Sequence[Row], spec: FeatureSpec) -> list[Encoded]:
        """Nothing: the order is drawn. Raises RunError for an encoder that reads single texts."""
        PairColumns.of(spec, "core.sentence_order")
        return [{} for _ in examples]

    def prepare(self, batch: Batch, draws: Draws, spec: FeatureSpec) -> Batch:
        """Swap the texts of half of the examples."""
        return swapped_by_chance(batch, draws, PairColumns.of(spec, "core.sentence_order"))


def document_number(example: Row) -> int:
    """63 bits that stand for the example's document; of the example itself where it names none."""
    name = str(example.get("document", example))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


def replaced_by_chance(batch: Batch, draws: Draws, columns: PairColumns) -> Batch:
    """Half of the examples with the second text of their partner, and FOLLOWS."""
    assert batch.partners is not None, "the engine draws partners for a head that says draws_partners"
    partners = pairs_of(batch.partners, columns)
    foreign = (batch.dense(DOCUMENT) != batch.partners.dense(DOCUMENT)).numpy()
    chosen = (draws.uniform(batch, _COIN) < 0.5) & foreign
    batch = changed(batch, columns, chosen, lambda at, pair: with_second(pair, partners[at], columns.max_tokens))
    return _told(batch, ~chosen)


def swapped_by_chance(batch: Batch, draws: Draws, columns: PairColumns) -> Batch:
    """Half of the examples with their texts swapped, and FOLLOWS."""
    chosen = draws.uniform(batch, _COIN) < 0.5
    return _told(changed(batch, columns, chosen, lambda _, pair: swapped(pair, columns.special_ids)), ~chosen)


def _told(batch: Batch, follows: np.typing.NDArray[np.bool_]) -> Batch:
    import torch

    batch = batch.with_columns(**{FOLLOWS: torch.from_numpy(follows.astype(np.float32))})
    return replace(batch, columns={name: column for name, column in batch.columns.items() if name != DOCUMENT})


def sentence_accuracy(tally: Tally) -> float:
    """From the sums of a SentencePair module."""
    return float(tally["sentence_hits"]) / max(1.0, float(tally["sentence_count"]))
