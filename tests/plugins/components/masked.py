"""Masked tokens and the length of a text, learned together: a loss of two terms with counts of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from heliostat.plugin import (
    Batch,
    DataAdapter,
    Draws,
    Encoded,
    FeatureSpec,
    Field,
    Record,
    Registry,
    Row,
    Settings,
    TaskHead,
    TokenFeatures,
)

if TYPE_CHECKING:
    from torch import nn

UNMASKED = -1


class Sentences(DataAdapter):
    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            yield {"text": row["sentence"]}


class Text(Record):
    text: str = Field(min_length=1)


class Reading(Record):
    text: str
    words: float


class MaskedWords(TaskHead):
    class Config(Settings):
        rate: Annotated[float, Field(gt=0, lt=1)] = 0.3

    needs = TokenFeatures
    takes = Text
    gives = Reading
    samples = ({"text": "the red cat sleeps"},)

    def encode(self, examples: Sequence[Row], spec: FeatureSpec) -> list[Encoded]:
        return [{"words": float(len(example["text"].split()))} for example in examples]

    def prepare(self, batch: Batch, draws: Draws, spec: FeatureSpec) -> Batch:
        import torch

        assert spec.vocabulary
        assert spec.vocabulary.mask_id is not None
        assert spec.token_column
        tokens = batch.ragged(spec.token_column)
        drawn = torch.from_numpy(draws.uniform_like(batch, spec.token_column) < self.config.rate)
        masked = drawn & ~torch.isin(tokens.values, torch.tensor(spec.vocabulary.special_ids))
        targets = tokens.values.masked_fill(~masked, UNMASKED)
        inputs = tokens.values.masked_fill(masked, spec.vocabulary.mask_id)
        return batch.with_columns(
            **{spec.token_column: tokens.with_values(inputs), "masked": tokens.with_values(targets)}
        )

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"mlm": float((batch.ragged("masked").values != UNMASKED).sum()), "words": float(len(batch))}

    def weights(self) -> dict[str, float]:
        return {"words": 0.01}

    def module(self, spec: FeatureSpec) -> nn.Module:
        import torch
        import torch.nn.functional as F

        assert spec.vocabulary
        vocabulary = spec.vocabulary

        class Module(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.bias = torch.nn.Parameter(torch.zeros(vocabulary.size))
                self.words = torch.nn.Linear(spec.dim, 1)

            def logits(self, states: Any, embedding: Any) -> Any:
                return F.linear(states, embedding, self.bias).float()

            def loss(self, features: TokenFeatures, batch: Batch) -> dict[str, Any]:
                targets = batch.ragged("masked").values
                places = (targets != UNMASKED).nonzero().squeeze(1)
                logits = self.logits(features.states[places], features.embedding)
                words = self.words(features.pooled).float().squeeze(1)
                return {
                    "mlm": F.cross_entropy(logits, targets[places], reduction="sum"),
                    "words": F.mse_loss(words, batch.dense("words"), reduction="sum"),
                }

            def predict(self, features: TokenFeatures, batch: Batch) -> list[Row]:
                best = self.logits(features.states, features.embedding).argmax(-1)
                words = self.words(features.pooled).float().squeeze(1).tolist()
                pieces = features.tokens.with_values(best).split()
                return [
                    {"text": vocabulary.text(ids.tolist()), "words": count}
                    for ids, count in zip(pieces, words, strict=True)
                ]

        return Module()

    def tally(self, batch: Batch, predictions: Sequence[Row]) -> dict[str, Any]:
        errors = np.array([row["words"] for row in predictions]) - batch.dense("words").numpy(force=True)
        return {"squared": np.square(errors).sum(), "count": np.float64(len(errors))}

    def scores(self, tally: dict[str, Any]) -> dict[str, float]:
        return {"words_error": float(np.sqrt(tally["squared"] / max(1.0, float(tally["count"]))))}


def register(registry: Registry) -> None:
    registry.add("sentences", Sentences)
    registry.add("words", MaskedWords)
