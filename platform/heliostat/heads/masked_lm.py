"""Masked language modelling: find the masked words of a text again, and fill its blanks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from heliostat.batch import Batch, Draws
from heliostat.component import Row, Settings
from heliostat.features import Features, FeatureSpec, TokenFeatures
from heliostat.heads.masking import PLACES, Masker, MaskSettings, token_column
from heliostat.plugin import Record, Tally, TaskHead

if TYPE_CHECKING:
    from torch import nn


class Blanks(Record):
    """A text, with blanks or without."""

    text: str = Field(
        min_length=1,
        max_length=20_000,
        pattern=r"\S",
        description="A text; what `encoder.blank` names stands for a word to be filled in.",
    )


class Filled(Record):
    """A text whose blanks are filled."""

    text: str = Field(description="The text with the most probable token in each blank.")
    blanks: list[dict[str, float]] = Field(description="For each blank the most probable tokens with probabilities.")
    log_likelihood: float = Field(
        description="Mean log probability of the text's tokens to a model that sees them: how much the text is its own."
    )


class MaskedLM(TaskHead):
    """Masked words are found again, at the masked places only, masked anew in each epoch (Devlin et al. 2019)."""

    class Config(MaskSettings):
        """Settings of masked language modelling."""

        choices: Annotated[int, Field(ge=1, le=100)] = 5
        """Tokens that an answer lists for each blank."""

    needs: ClassVar[type[Features]] = TokenFeatures
    takes: ClassVar[type[Record]] = Blanks
    errors: ClassVar[tuple[str, ...]] = ("perplexity",)
    gives: ClassVar[type[Record]] = Filled
    samples: ClassVar[tuple[Row, ...]] = (
        {"text": "It fits [MASK] and the colour is lovely."},
        {"text": "The results of this study were not significant."},
    )

    def __init__(self, config: Settings | None = None) -> None:
        super().__init__(config)
        self._masker: Masker | None = None

    def prepare(self, batch: Batch, draws: Draws, spec: FeatureSpec) -> Batch:
        """Mask words anew. Raises RunError for an encoder without a mask token."""
        vocabulary, column = token_column(spec, "core.masked_lm")
        self._masker = self._masker or Masker(vocabulary, self.config)
        return self._masker(batch, column, draws)

    def counts(self, batch: Batch) -> dict[str, float]:
        """The masked tokens."""
        return {"loss": num_masked(batch)}

    def module(self, spec: FeatureSpec) -> nn.Module:
        """BERT's transform, and a projection that is tied to the input embedding."""
        from heliostat.heads.masked_lm_module import MaskedLMModule

        vocabulary, _ = token_column(spec, "core.masked_lm")
        return MaskedLMModule(spec.dim, vocabulary, self.config.choices)

    def scores(self, tally: Tally) -> dict[str, float]:
        """Perplexity and accuracy at the masked places."""
        return masked_scores(tally)


def num_masked(batch: Batch) -> float:
    """The masked tokens of a prepared batch."""
    return float(sum(batch.ragged(PLACES).lengths))


def masked_scores(tally: Tally) -> dict[str, float]:
    """Perplexity and accuracy, from the sums of a MaskedTokens module."""
    count = max(1.0, float(tally["masked_count"]))
    return {
        "perplexity": perplexity(float(tally["masked_loss"]), count),
        "masked_accuracy": float(tally["masked_hits"]) / count,
    }


def perplexity(loss: float, count: float) -> float:
    """e to the mean loss in nats; at most e^50, so that it stays a number."""
    return math.exp(min(50.0, loss / max(1.0, count)))
