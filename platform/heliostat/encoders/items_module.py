"""What computes in an item encoder: layers of causal attention over histories that stand end to end."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.batch import Batch, Ragged
from heliostat.encoders.attention import Layout, unpadded_attention
from heliostat.encoders.dropout import dropout
from heliostat.encoders.item_catalogue import Catalogue
from heliostat.encoders.items import EARLIER, ITEMS
from heliostat.features import ItemFeatures
from heliostat.shapes import fill_rows, filled


class ItemLayer(nn.Module):
    """Causal attention and a feed-forward layer, each behind a norm: [T, dim] -> [T, dim]."""

    def __init__(self, dim: int, heads: int, inner: int, rate: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, rate
        self.norm_1, self.norm_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.read = nn.Linear(dim, 3 * dim)
        self.write = nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, inner), nn.Linear(inner, dim)

    def forward(self, states: Tensor, layout: Layout) -> Tensor:
        """The states of the next layer, in the order of the layout."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(0, 1).unsqueeze(0)
            for part in self.read(self.norm_1(states)).chunk(3, -1)
        )
        attended, _ = unpadded_attention(self, query, key, value, None, layout=layout, is_causal=True)
        states = states + dropout(self.write(attended[0].flatten(1)), self.rate, self.training)
        inner = dropout(F.gelu(self.up(self.norm_2(states))), self.rate, self.training)
        return states + dropout(self.down(inner), self.rate, self.training)  # type: ignore[no-any-return]


class ItemModule(nn.Module):
    """Numbers of items, end to end -> one vector a place. The vector of an item is its own plus that of its text."""

    def __init__(self, config: Any, catalogue: Catalogue, text_only: float) -> None:
        super().__init__()
        self.config, self.text_only = config, text_only
        self.items = nn.Embedding(catalogue.size, config.dim)
        self.places = nn.Embedding(config.max_history + 1, config.dim)
        inner = config.inner or 4 * config.dim
        self.layers = nn.ModuleList(
            ItemLayer(config.dim, config.heads, inner, config.dropout) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.dim)
        self.words = self._words(catalogue) if config.texts else None
        is_warm = torch.arange(catalogue.size) <= catalogue.num_warm
        self.register_buffer("is_warm", is_warm.float().unsqueeze(1), persistent=False)
        self._kept: list[Tensor] = []  # a list, so that the vectors are no part of the weights
        self.apply(_start)

    def _words(self, catalogue: Catalogue) -> nn.EmbeddingBag:
        words = catalogue.words()
        flat = [number for numbers in words.of_items for number in numbers]
        starts = [0]
        for numbers in words.of_items[:-1]:
            starts.append(starts[-1] + len(numbers))
        self.register_buffer("word_ids", torch.tensor(flat, dtype=torch.int64), persistent=False)
        self.register_buffer("word_starts", torch.tensor(starts, dtype=torch.int64), persistent=False)
        return nn.EmbeddingBag(max(1, words.size), self.config.dim, mode="mean")

    def train(self, mode: bool = True) -> Self:
        """Also forget the vectors that were kept for answering: the weights may change now."""
        self._kept = []
        return super().train(mode)

    def table(self) -> Tensor:
        """The vector of every item: [items + 1, dim]. Kept between answers."""
        if torch.is_grad_enabled() or self.training:
            return self._vectors()
        if not self._kept:
            self._kept = [self._vectors()]
        return self._kept[0]

    def _vectors(self) -> Tensor:
        if self.words is None:
            return self.items.weight
        own = self.items.weight * self.get_buffer("is_warm")
        if self.training and self.text_only:
            own = own * (torch.rand(own.shape[0], 1, device=own.device) >= self.text_only)
        text = self.words(self.get_buffer("word_ids"), self.get_buffer("word_starts"))
        return own + text  # type: ignore[no-any-return]

    def forward(self, batch: Batch) -> ItemFeatures:
        """States in the order of the batch, and the last one of each history."""
        tokens, table = batch.ragged(ITEMS), self.table()
        # Answers are computed in fp32 whatever was asked for: near scores keep their order, and the model is small.
        exact = nullcontext() if self.training else torch.autocast(tokens.values.device.type, enabled=False)
        with exact:
            states = self.read(tokens, table)
        return ItemFeatures(
            pooled=states.index_select(0, tokens.offsets[1:] - 1),
            states=states,
            tokens=tokens,
            embedding=table,
            reader=self.read,
            earlier=batch.ragged(EARLIER) if EARLIER in batch else None,
        )

    def read(self, tokens: Ragged, table: Tensor | None = None) -> Tensor:
        """The states of other histories: [T, dim], in the order of the batch."""
        layout = Layout.of(filled(tokens.lengths, tokens.values.device), tokens.values.device)
        numbers = layout.lay(fill_rows(tokens.values, len(layout.positions)))
        vectors = F.embedding(numbers, self.table() if table is None else table)
        states = vectors * self.config.dim**0.5 + self.places(layout.positions)
        states = dropout(states, self.config.dropout, self.training)
        for layer in self.layers:
            states = layer(states, layout)
        return layout.restore(self.norm(states))[: len(tokens.values)]


def _start(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding, nn.EmbeddingBag)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
