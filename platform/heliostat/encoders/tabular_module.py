"""What computes in a table encoder: piecewise-linear numbers, vectors of values, bags of words, residual blocks.

Numbers as in "On Embeddings for Numerical Features" (Gorishniy, Rubachev and Babenko 2022), blocks as in "Revisiting
Deep Learning Models for Tabular Data" (Gorishniy et al. 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from heliostat.batch import Batch, Ragged
from heliostat.encoders.tabular_fitted import MISSING, MONTHS, WEEKDAYS, FittedTable
from heliostat.encoders.tabular_terms import DAYS_PER_YEAR, fields_of
from heliostat.features import TabularFeatures

_NUMBER_DIM = 8
_WORD_DIM = 16


class TabularModule(nn.Module):
    """A batch of records -> one vector an example; a gap, and any field on request, is read as unknown."""

    def __init__(self, settings: Any, fields: Sequence[str], fitted: FittedTable) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.field_dropout = settings.field_dropout
        width = fitted.target.width + 1 if fitted.target else 0
        rated = [term for term in settings.rates for _ in range(width)]
        sizes = [len(known) + 2 for known in fitted.levels]
        sizes += [size for _ in settings.dates for size in (MONTHS + 1, WEEKDAYS + 1)]
        dated = [name for name in settings.dates for _ in range(2)]
        self.reads_numbers = self._reads([*settings.numbers, *settings.dates, *rated], "number_fields")
        self.reads_levels = self._reads([*settings.categories, *dated], "level_fields")
        self.reads_texts = self._reads([*settings.texts], "text_fields")
        self.num_rates = len(rated)
        self.trend = Trend(settings, fitted) if settings.dates and settings.trend_years else None
        self.numbers = Numbers(self._edges(settings, fitted)) if fitted.edges else None
        self.levels = nn.ModuleList(nn.Embedding(size, min(settings.level_dim, size)) for size in sizes)
        self.words = nn.ModuleList(
            nn.EmbeddingBag(settings.word_buckets, _WORD_DIM, mode="mean") for _ in settings.texts
        )
        inner = sum(table.embedding_dim for table in self.levels)  # type: ignore[misc]
        inner += _NUMBER_DIM * len(fitted.edges) + _WORD_DIM * len(settings.texts)
        self.dropout = nn.Dropout(settings.dropout)
        self.join = nn.Linear(inner, settings.dim)
        self.blocks = nn.ModuleList(Block(settings.dim, settings.dropout) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(settings.dim)
        for table in (*self.levels, *self.words):
            nn.init.normal_(table.weight, std=0.05)  # type: ignore[arg-type]

    def _reads(self, terms: Sequence[str], name: str) -> int:
        """Keep which fields each of the inputs is made of: [inputs, fields]."""
        reads = [[float(field in fields_of(term)) for field in self.fields] for term in terms]
        self.register_buffer(name, torch.tensor(reads).view(len(terms), len(self.fields)), persistent=False)
        return len(terms)

    def _edges(self, settings: Any, fitted: FittedTable) -> list[list[float]]:
        """The quantiles of each number; none for the years of a date whose trend is followed.

        Bins would explain the past as well as the trend does, and leave it nothing to learn for the future.
        """
        first, count = len(settings.numbers), len(settings.dates) if self.trend is not None else 0
        return [[] if first <= place < first + count else edges for place, edges in enumerate(fitted.edges)]

    def forward(self, batch: Batch) -> TabularFeatures:
        """The vector of each example, and the way to the one that it would have without a field."""
        hidden = None
        if self.training and self.field_dropout:
            shape = (len(batch), len(self.fields))
            hidden = (torch.rand(shape, device=self.norm.weight.device) < self.field_dropout).float()
        return TabularFeatures(self.read(batch, hidden), self.fields, partial(self.without, batch))

    def without(self, batch: Batch, field: str) -> Tensor:
        """[examples, dim], as if `field` were missing in each example."""
        hidden = torch.zeros(len(batch), len(self.fields), device=self.norm.weight.device)
        hidden[:, self.fields.index(field)] = 1.0
        return self.read(batch, hidden)

    def read(self, batch: Batch, hidden: Tensor | None) -> Tensor:
        """[examples, dim]; `hidden` says which fields are taken for missing: [examples, fields]."""
        pieces: list[Tensor] = []
        numbers = self._numbers(batch)
        if self.numbers is not None and numbers is not None:
            numbers = _hide(numbers, hidden, self.get_buffer("number_fields"), float("nan"))
            pieces.append(self.numbers(numbers))
        if self.reads_levels:
            places = _hide(batch.ragged("levels").stacked(), hidden, self.get_buffer("level_fields"), MISSING)
            pieces += [table(place) for table, place in zip(self.levels, places.unbind(1), strict=True)]
        for place, table in enumerate(self.words):
            pieces.append(self._bag(table, batch.ragged(f"words_{place}"), hidden, place))
        state = self.join(self.dropout(torch.cat(pieces, dim=1)))
        for block in self.blocks:
            state = block(state)
        pooled: Tensor = self.norm(state)
        if self.trend is not None and numbers is not None:
            pooled = pooled + self.trend(numbers)
        return pooled

    def _numbers(self, batch: Batch) -> Tensor | None:
        """[examples, numbers], NaN for a gap; in training rates that know nothing of the example's own target."""
        parts = [batch.ragged("numbers").stacked()] if "numbers" in batch else []
        if self.num_rates:
            both = batch.ragged("rates").stacked()
            whole, others = both[:, : self.num_rates], both[:, self.num_rates :]
            parts.append(others if self.training else whole)
        return torch.cat(parts, dim=1) if parts else None

    def _bag(self, table: nn.Module, words: Ragged, hidden: Tensor | None, place: int) -> Tensor:
        found: Tensor = table(words.values, words.offsets[:-1].long())
        if hidden is None:
            return found
        return found * (1.0 - hidden @ self.get_buffer("text_fields")[place])[:, None]


def _hide(values: Tensor, hidden: Tensor | None, reads: Tensor, unknown: float) -> Tensor:
    """`values` ([examples, inputs]) with those made of a hidden field replaced by `unknown`."""
    return values if hidden is None else values.masked_fill(hidden @ reads.T > 0, unknown)


class Numbers(nn.Module):
    """Each number as its place between quantiles, in each bin from 0 to 1, into a vector of its own; gaps have one."""

    def __init__(self, edges: Sequence[Sequence[float]]) -> None:
        super().__init__()
        bins = max(1, *(len(column) - 1 for column in edges))
        low, span = torch.zeros(len(edges), bins), torch.ones(len(edges), bins)
        used = torch.zeros(len(edges), bins)
        for place, column in enumerate(edges):
            borders = torch.tensor(column, dtype=torch.float64)
            count = max(0, len(column) - 1)
            low[place, :count] = borders[:-1].float() if count else low[place, :count]
            span[place, :count] = borders.diff().float() if count else span[place, :count]
            used[place, :count] = 1.0
        for name, tensor in (("low", low), ("span", span.clamp(min=1e-12)), ("used", used)):
            self.register_buffer(name, tensor, persistent=False)
        self.weight = nn.Parameter(torch.randn(len(edges), bins, _NUMBER_DIM) * 0.2)
        self.bias = nn.Parameter(torch.zeros(len(edges), _NUMBER_DIM))
        self.gap = nn.Parameter(torch.zeros(len(edges), _NUMBER_DIM))

    def forward(self, numbers: Tensor) -> Tensor:
        """[examples, numbers] -> [examples, numbers * 8]. A number beyond the train split counts as its nearest."""
        missing = numbers.isnan()
        known = numbers.masked_fill(missing, 0.0)[:, :, None]
        places = ((known - self.get_buffer("low")) / self.get_buffer("span")).clamp(0.0, 1.0) * self.get_buffer("used")
        vectors = torch.einsum("bnk,nkd->bnd", places, self.weight.to(places.dtype)) + self.bias
        return torch.where(missing[:, :, None], self.gap.to(vectors.dtype), vectors.relu()).flatten(1)


class Trend(nn.Module):
    """What changes with time in a straight line, followed up to `trend_years` beyond the dates of the train split."""

    def __init__(self, settings: Any, fitted: FittedTable) -> None:
        super().__init__()
        self.first, self.count = len(settings.numbers), len(settings.dates)
        newest, oldest = fitted.newest
        self.past, self.future = max(1.0, (newest - oldest) / DAYS_PER_YEAR), settings.trend_years
        self.linear = nn.Linear(self.count, settings.dim, bias=False)

    def forward(self, numbers: Tensor) -> Tensor:
        """[examples, dim]; a missing date adds what the middle of the train split's time adds: nothing."""
        years = numbers[:, self.first : self.first + self.count].clamp(-self.past, self.future)
        middle = -self.past / 2
        scaled = ((years - middle) / self.past).nan_to_num(0.0)
        moved: Tensor = self.linear(scaled)
        return moved


class Block(nn.Module):
    """A residual block: normalise, widen, bend, narrow."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Dropout(dropout), nn.Linear(2 * dim, dim)
        )

    def forward(self, state: Tensor) -> Tensor:
        """[examples, dim] -> the same."""
        moved: Tensor = self.inner(state)
        return state + moved
