"""Causal language modelling: the next token at every place of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from heliostat.batch import Batch, Draws, Ragged
from heliostat.component import Row, Settings
from heliostat.features import CausalFeatures, Features, FeatureSpec
from heliostat.heads.masked_lm import perplexity
from heliostat.heads.masking import token_column
from heliostat.plugin import Metric, Record, Tally, TaskHead

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

TARGETS = "next_tokens"
"""The column of a batch that holds, for each token, the one that follows."""

NO_TARGET = -100
"""A target that counts nothing; torch's own sign for it."""


class Beginning(Record):
    """The beginning of a text."""

    text: str = Field(min_length=1, max_length=20_000, pattern=r"\S", description="The beginning of a text.")


class Continued(Record):
    """How a text goes on, and how probable it was."""

    text: str = Field(description="How it goes on: the most probable token, one after the other.")
    log_likelihood: float = Field(description="Mean log probability of a token of the beginning, in nats.")
    tokens: int = Field(description="Tokens of the beginning that were predicted.")


class CausalLM(TaskHead):
    """The next token at every place, from those before it in the same text (Radford et al. 2019)."""

    class Config(Settings):
        """Settings of causal language modelling."""

        max_new_tokens: Annotated[int, Field(ge=0, le=1024)] = 24
        """The most tokens by which an answer goes on."""

    needs: ClassVar[type[Features]] = CausalFeatures
    takes: ClassVar[type[Record]] = Beginning
    errors: ClassVar[tuple[str, ...]] = ("perplexity",)
    gives: ClassVar[type[Record]] = Continued
    samples: ClassVar[tuple[Row, ...]] = (
        {"text": "I love the colour, and it fits"},
        {"text": "The results of this study"},
    )

    def prepare(self, batch: Batch, draws: Draws, spec: FeatureSpec) -> Batch:
        """Set each token's follower beside it; nothing is drawn."""
        _, column = token_column(spec, "core.causal_lm")
        return batch.with_columns(**{TARGETS: followers(batch.ragged(column))})

    def counts(self, batch: Batch) -> dict[str, float]:
        """The tokens that follow another one in their text."""
        return {"loss": float(sum(max(0, length - 1) for length in batch.ragged(TARGETS).lengths))}

    def module(self, spec: FeatureSpec) -> nn.Module:
        """A projection that is tied to the input embedding, and nothing else."""
        from heliostat.heads.causal_lm_module import CausalLMModule

        vocabulary, _ = token_column(spec, "core.causal_lm")
        return CausalLMModule(vocabulary, self.config.max_new_tokens, spec.max_tokens)

    def scores(self, tally: Tally) -> dict[str, float]:
        """Perplexity, and how often the next token is the most probable one."""
        count = max(1.0, float(tally["count"]))
        return {"perplexity": perplexity(float(tally["loss"]), count), "accuracy": float(tally["hits"]) / count}

    def metrics(self) -> dict[str, Metric]:
        """The mean log probability of a token."""
        return {"log_likelihood": LogLikelihood()}


def followers(tokens: Ragged) -> Ragged:
    """For each token the one that follows it in its example, and NO_TARGET for the last."""
    values = tokens.values.roll(-1)
    ends = tokens.offsets[1:][tokens.offsets.diff() > 0].long() - 1
    return tokens.with_values(values.index_fill(0, ends, NO_TARGET))


class LogLikelihood:
    """The mean log probability of a token over all texts, in nats; minus the logarithm of perplexity."""

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        return float(self.resampled(table, np.ones((1, len(table))))[0])

    def resampled(self, table: pd.DataFrame, counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The score of each resample; `counts` says how often each holds each row: [resamples, rows]."""
        tokens = table["tokens"].to_numpy(dtype=np.float64)
        sums = counts @ (table["log_likelihood"].to_numpy(dtype=np.float64) * tokens)
        total = counts @ tokens
        means: npt.NDArray[np.float64] = np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0)
        return means
