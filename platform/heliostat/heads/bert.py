"""Masked words and neighbouring texts together, as BERT was trained: two terms of loss with two counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from heliostat.batch import Batch, Draws, Encoded
from heliostat.component import Row, Settings
from heliostat.features import Features, FeatureSpec, TokenFeatures
from heliostat.heads.masked_lm import Filled, MaskedLM, masked_scores, num_masked
from heliostat.heads.masking import Masker
from heliostat.heads.pairs import PairColumns
from heliostat.heads.sentences import (
    DOCUMENT,
    Neighbours,
    document_number,
    replaced_by_chance,
    sentence_accuracy,
    swapped_by_chance,
)
from heliostat.plugin import Record, Tally, TaskHead

if TYPE_CHECKING:
    from torch import nn


class Read(Filled):
    """A pair of texts, read: its blanks filled, and whether the second text follows the first."""

    follows: bool = Field(description="Whether the second text follows the first, more probably than not.")
    probability: float = Field(description="The probability that it follows, 0 to 1.")


class Bert(TaskHead):
    """Masked words, and whether a text follows another, learned together (Devlin et al. 2019)."""

    class Config(MaskedLM.Config):
        """Settings of both tasks."""

        sentences: Literal["next", "order"] = "next"
        """What is asked of two texts: does the second follow (BERT), or are they the wrong way round (ALBERT)?"""
        sentence_weight: Annotated[float, Field(gt=0.0)] = 1.0
        """Weight of the sentence term; the masked term weighs 1."""

    needs: ClassVar[type[Features]] = TokenFeatures
    takes: ClassVar[type[Record]] = Neighbours
    errors: ClassVar[tuple[str, ...]] = ("masked", "sentence", "perplexity")
    gives: ClassVar[type[Record]] = Read
    samples: ClassVar[tuple[Row, ...]] = (
        {"text": "The dress arrived on [MASK].", "next": "It was too small, so I sent it back."},
        {"text": "The dress arrived on Monday.", "next": "Serum levels were measured after six weeks."},
    )

    def __init__(self, config: Settings | None = None) -> None:
        super().__init__(config)
        self.draws_partners = self.config.sentences == "next"
        self._masker: Masker | None = None

    def encode(self, examples: Sequence[Row], spec: FeatureSpec) -> list[Encoded]:
        """The number of each example's `document`. Raises RunError for an encoder that reads single texts."""
        PairColumns.of(spec, "core.bert")
        return [{DOCUMENT: document_number(example)} for example in examples]

    def prepare(self, batch: Batch, draws: Draws, spec: FeatureSpec) -> Batch:
        """Replace or swap texts, then mask words, all anew in each epoch."""
        columns = PairColumns.of(spec, "core.bert")
        assert spec.vocabulary is not None
        self._masker = self._masker or Masker(spec.vocabulary, self.config)
        by_chance = replaced_by_chance if self.config.sentences == "next" else swapped_by_chance
        return self._masker(by_chance(batch, draws, columns), columns.tokens, draws)

    def counts(self, batch: Batch) -> dict[str, float]:
        """The masked tokens, and the pairs."""
        return {"masked": num_masked(batch), "sentence": float(len(batch))}

    def weights(self) -> dict[str, float]:
        """The sentence term's weight."""
        return {"sentence": self.config.sentence_weight}

    def module(self, spec: FeatureSpec) -> nn.Module:
        """Both heads' layers over one encoder."""
        from heliostat.heads.bert_module import BertHeadModule

        PairColumns.of(spec, "core.bert")
        assert spec.vocabulary is not None
        return BertHeadModule(spec.dim, spec.vocabulary, self.config.choices)

    def scores(self, tally: Tally) -> dict[str, float]:
        """Perplexity and accuracy at the masked places, and the share of pairs that are told right."""
        return {**masked_scores(tally), "sentence_accuracy": sentence_accuracy(tally)}
