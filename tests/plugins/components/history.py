"""A user's events, out of order in the file, as one ordered history; the next item is learned at every place of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heliostat.plugin import (
    Batch,
    DataAdapter,
    Encoded,
    Encoder,
    FeatureSpec,
    Field,
    Ragged,
    Record,
    Registry,
    Row,
    Settings,
    TaskHead,
    TokenFeatures,
)

if TYPE_CHECKING:
    from torch import nn


class Events(DataAdapter):
    group_by = "user"
    order_by = "time"

    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        yield {"history": [row["item"] for row in rows]}


class History(Record):
    history: list[str] = Field(min_length=1, max_length=50)


class NextItems(Record):
    items: list[str]
    scores: list[float]


class Items:
    """The items of the train split; 0 stands for all others."""

    mask_id = None
    special_ids = (0,)

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.size = len(names) + 1
        self.index = {name: place + 1 for place, name in enumerate(names)}

    def ids(self, text: str) -> list[int]:
        return [self.index.get(text, 0)]

    def text(self, ids: Sequence[int]) -> str:
        return " ".join(self.names[place - 1] for place in ids if place)

    def starts_word(self) -> list[bool]:
        return [True] * self.size


class ItemEncoder(Encoder):
    """Causal: the state of an item is made of it and those before it."""

    class Config(Settings):
        dim: int = 16

    gives = TokenFeatures
    items = Items(())

    def fit(self, examples: Iterable[Row]) -> None:
        self.items = Items(sorted({item for example in examples for item in example["history"]}))

    def save(self, folder: Path) -> None:
        (folder / "items.json").write_text(json.dumps(self.items.names))

    def load(self, folder: Path) -> None:
        self.items = Items(json.loads((folder / "items.json").read_text()))

    def encode(self, examples: Sequence[Row]) -> list[Encoded]:
        ids = [[self.items.ids(item)[0] for item in example["history"]] for example in examples]
        return [{"items": np.array(each, dtype=np.int32)} for each in ids]

    def spec(self) -> FeatureSpec:
        return FeatureSpec(self.config.dim, self.items, token_column="items")

    def module(self) -> nn.Module:
        import torch

        size, dim = self.items.size, self.config.dim

        class Module(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embedding = torch.nn.Embedding(size, dim)
                self.mix = torch.nn.Linear(2 * dim, dim)

            def forward(self, batch: Batch) -> TokenFeatures:
                items = batch.ragged("items")
                vectors = self.embedding(items.values)
                pieces = vectors.split(list(items.lengths))
                means = [piece.cumsum(0) / torch.arange(1, len(piece) + 1).unsqueeze(1).to(piece) for piece in pieces]
                states = self.mix(torch.cat([vectors, torch.cat(means)], 1)).tanh()
                last = items.offsets[1:].long() - 1
                return TokenFeatures(states[last], states, items, self.embedding.weight)

        return Module()


class NextItem(TaskHead):
    class Config(Settings):
        k: int = 3

    needs = TokenFeatures
    takes = History
    gives = NextItems
    samples = ({"history": ["a0", "a1"]},)

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"loss": float(len(targets_of(batch.ragged("items"))[1]))}

    def module(self, spec: FeatureSpec) -> nn.Module:
        import torch
        import torch.nn.functional as F

        vocabulary, k = spec.vocabulary, self.config.k
        assert vocabulary

        class Module(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.bias = torch.nn.Parameter(torch.zeros(vocabulary.size))

            def logits(self, states: Any, features: TokenFeatures) -> Any:
                return F.linear(states, features.embedding, self.bias).float()

            def loss(self, features: TokenFeatures, batch: Batch) -> dict[str, Any]:
                places, targets = targets_of(features.tokens)
                return {
                    "loss": F.cross_entropy(self.logits(features.states[places], features), targets, reduction="sum")
                }

            def predict(self, features: TokenFeatures, batch: Batch) -> list[Row]:
                logits = self.logits(features.pooled, features).log_softmax(-1)
                logits[:, list(vocabulary.special_ids)] = -torch.inf
                best = logits.topk(min(k, vocabulary.size - 1))
                return [
                    {"items": [vocabulary.text([place]) for place in places], "scores": scores}
                    for places, scores in zip(best.indices.tolist(), best.values.tolist(), strict=True)
                ]

        return Module()


def targets_of(items: Ragged) -> tuple[Any, Any]:
    """The places that another item of the same history follows, and these items. Unknown items are no targets."""
    import torch

    is_last = torch.zeros_like(items.values, dtype=torch.bool)
    is_last[items.offsets[1:].long() - 1] = True
    following = items.values.roll(-1)
    places = (~is_last & (following != 0)).nonzero().squeeze(1)
    return places, following[places].long()


def register(registry: Registry) -> None:
    registry.add("events", Events)
    registry.add("items", ItemEncoder)
    registry.add("next", NextItem)
