"""Denoising: a text whose spans are masked is written again as it was, by an encoder with a decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from heliostat.batch import Batch, Draws
from heliostat.component import Row, Settings
from heliostat.errors import Problem, RunError
from heliostat.features import Features, FeatureSpec, Seq2SeqFeatures, Vocabulary
from heliostat.heads.causal_lm import Beginning
from heliostat.heads.masked_lm import perplexity
from heliostat.heads.masking import mask_of, ragged, token_column
from heliostat.plugin import Record, Tally, TaskHead

if TYPE_CHECKING:
    from torch import nn

TARGETS = "whole_text"
"""The column of a batch that holds the tokens of each text before it was noised."""

_BEGINS, _SIZES = 21, 22  # streams of random draws: where spans begin, and how long they are

Ids = npt.NDArray[np.int64]


class Rewritten(Record):
    """A text, written again."""

    text: str = Field(
        description="The text as the model writes it: blanks filled, the most probable token at each step."
    )
    log_likelihood: float = Field(description="Mean log probability of a token of the text, to a model that reads it.")


class Denoising(TaskHead):
    """Spans of a text are masked, anew in each epoch, and the text is written whole again (Lewis et al. 2020)."""

    class Config(Settings):
        """How much is masked, and how long an answer may be."""

        rate: Annotated[float, Field(gt=0.0, lt=0.8)] = 0.3
        """About the share of the tokens that is masked."""
        span: Annotated[int, Field(ge=1, le=20)] = 3
        """Mean tokens of a span; lengths are drawn evenly from 1 to twice that."""
        max_new_tokens: Annotated[int, Field(ge=1, le=1024)] = 64
        """The most tokens of an answer."""

    needs: ClassVar[type[Features]] = Seq2SeqFeatures
    takes: ClassVar[type[Record]] = Beginning
    errors: ClassVar[tuple[str, ...]] = ("perplexity",)
    gives: ClassVar[type[Record]] = Rewritten
    samples: ClassVar[tuple[Row, ...]] = (
        {"text": "It fits well and the colour is lovely."},
        {"text": "The results of this study were not significant."},
    )

    def prepare(self, batch: Batch, draws: Draws, spec: FeatureSpec) -> Batch:
        """Mask spans anew, and keep the whole text beside them. Raises RunError for an encoder without a mask token."""
        vocabulary, column = _vocabulary(spec)
        whole = batch.ragged(column)
        begins = draws.uniform_like(batch, column, _BEGINS)
        sizes = 1 + (draws.uniform_like(batch, column, _SIZES) * (2 * self.config.span - 1)).astype(np.int64)
        special = np.isin(whole.values.numpy(), vocabulary.special_ids)
        covered = spans(begins < chance(self.config.rate, self.config.span), sizes, whole.lengths) & ~special
        ids, lengths = infilled(whole.values.numpy(), covered, whole.lengths, mask_of(vocabulary))
        return batch.with_columns(**{column: ragged(ids, lengths), TARGETS: whole})

    def counts(self, batch: Batch) -> dict[str, float]:
        """The tokens that are written: all but the first of each text."""
        return {"loss": float(sum(max(0, length - 1) for length in batch.ragged(TARGETS).lengths))}

    def module(self, spec: FeatureSpec) -> nn.Module:
        """It has no weights: the encoder owns the decoder."""
        from heliostat.heads.denoising_module import DenoisingModule

        vocabulary, _ = _vocabulary(spec)
        return DenoisingModule(vocabulary, self.config.max_new_tokens, spec.max_tokens)

    def scores(self, tally: Tally) -> dict[str, float]:
        """Perplexity of the whole text given the noised one, and how often the next token is the most probable one."""
        count = max(1.0, float(tally["count"]))
        return {"perplexity": perplexity(float(tally["loss"]), count), "accuracy": float(tally["hits"]) / count}


def _vocabulary(spec: FeatureSpec) -> tuple[Vocabulary, str]:
    vocabulary, column = token_column(spec, "core.denoising")
    if spec.target_vocabulary is not vocabulary:
        rule = "core.denoising writes what it reads, so both sides need one vocabulary. Take core.seq2seq_text."
        raise RunError([Problem("encoder", rule)])
    return vocabulary, column


def chance(rate: float, span: int) -> float:
    """How often a span of mean length `span` must begin for about `rate` of the tokens to lie in one."""
    # A token is free when none of the spans that could reach it began, which is about (1 - p)^span.
    return float(1.0 - (1.0 - rate) ** (1.0 / span))


def spans(begins: npt.NDArray[np.bool_], sizes: Ids, lengths: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """The tokens in spans of `sizes` that start where `begins` says; none reaches out of its example: [tokens]."""
    ends = np.repeat(np.cumsum(lengths), lengths)
    places = np.flatnonzero(begins)
    edges = np.zeros(len(begins) + 1, dtype=np.int64)
    np.add.at(edges, places, 1)
    np.add.at(edges, np.minimum(places + sizes[places], ends[places]), -1)
    covered: npt.NDArray[np.bool_] = np.cumsum(edges[:-1]) > 0
    return covered


def infilled(
    ids: Ids, covered: npt.NDArray[np.bool_], lengths: tuple[int, ...], mask_id: int
) -> tuple[Ids, npt.NDArray[np.int64]]:
    """The tokens with one mask for each run of covered ones, and the new length of each example."""
    firsts = np.zeros(len(ids), dtype=bool)
    firsts[(np.cumsum(lengths) - np.asarray(lengths))[np.asarray(lengths) > 0]] = True
    begins = covered & (firsts | ~np.concatenate([[False], covered[:-1]]))
    kept = ~covered | begins
    noised = np.where(covered, mask_id, ids)[kept]
    bounds = np.concatenate([[0], np.cumsum(kept)])[np.concatenate([[0], np.cumsum(lengths)])]
    return noised.astype(np.int64), np.diff(bounds)
