"""Numbers and categories of a table, with gaps: scales and vocabularies are fitted on the train split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heliostat.plugin import (
    Batch,
    Column,
    DataAdapter,
    Encoded,
    Encoder,
    FeatureSpec,
    Field,
    PooledFeatures,
    Record,
    Registry,
    RejectedRecord,
    Row,
    Settings,
    TaskHead,
)

if TYPE_CHECKING:
    from torch import nn


class Customers(DataAdapter):
    class Config(Settings):
        left: Column = "left"

    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            if row[self.config.left] not in ("yes", "no"):
                raise RejectedRecord("whether the customer left is neither yes nor no")
            numbers = {name: float(row[name]) if row[name] not in (None, "") else None for name in ("age", "spend")}
            yield {**numbers, "plan": row["plan"] or None, "left": row[self.config.left] == "yes"}


class Customer(Record):
    age: float | None = Field(default=None, ge=0, le=150)
    spend: float | None = None
    plan: str | None = None


class Leaving(Record):
    leaves: bool
    probability: float = Field(ge=0, le=1)


class Table(Encoder):
    class Config(Settings):
        numbers: tuple[str, ...]
        categories: tuple[str, ...] = ()
        dim: int = 16

    gives = PooledFeatures

    def fit(self, examples: Iterable[Row]) -> None:
        rows = list(examples)
        columns = [[row[name] for row in rows if row[name] is not None] for name in self.config.numbers]
        self.scales = [(float(np.mean(column)), float(np.std(column)) or 1.0) for column in columns]
        self.levels = [sorted({row[name] for row in rows if row[name] is not None}) for name in self.config.categories]

    def save(self, folder: Path) -> None:
        (folder / "table.json").write_text(json.dumps({"scales": self.scales, "levels": self.levels}))

    def load(self, folder: Path) -> None:
        fitted = json.loads((folder / "table.json").read_text())
        self.scales, self.levels = [tuple(scale) for scale in fitted["scales"]], fitted["levels"]

    def encode(self, examples: Sequence[Row]) -> list[Encoded]:
        return [{"numbers": self._numbers(example), "categories": self._categories(example)} for example in examples]

    def _numbers(self, example: Row) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Each number scaled, 0 for a gap, and beside it whether it is one."""
        values = [example[name] for name in self.config.numbers]
        scaled = [0.0 if v is None else (v - mean) / std for v, (mean, std) in zip(values, self.scales, strict=True)]
        return np.array([*scaled, *(float(value is None) for value in values)], dtype=np.float32)

    def _categories(self, example: Row) -> np.ndarray[Any, np.dtype[np.int32]]:
        """0 stands for a gap, 1 for a level that the train split does not have."""
        levels = zip(self.config.categories, self.levels, strict=True)
        values = [(example[name], known) for name, known in levels]
        places = [0 if v is None else known.index(v) + 2 if v in known else 1 for v, known in values]
        return np.array(places, dtype=np.int32)

    def spec(self) -> FeatureSpec:
        return FeatureSpec(self.config.dim)

    def module(self) -> nn.Module:
        import torch

        dim, num_numbers, sizes = self.config.dim, len(self.config.numbers), [len(known) + 2 for known in self.levels]

        class Module(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.levels = torch.nn.ModuleList(torch.nn.Embedding(size, dim) for size in sizes)
                self.numbers = torch.nn.Linear(2 * num_numbers, dim)

            def forward(self, batch: Batch) -> PooledFeatures:
                total = self.numbers(batch.ragged("numbers").stacked())
                for table, places in zip(self.levels, batch.ragged("categories").stacked().T, strict=True):
                    total = total + table(places)
                return PooledFeatures(total.tanh())

        return Module()


class Leaves(TaskHead):
    takes = Customer
    gives = Leaving
    target_fields = ("left",)
    samples = ({"age": 40.0, "spend": None, "plan": "gold"}, {"plan": "a plan nobody has"})
    selects = "accuracy"

    def encode(self, examples: Sequence[Row], spec: FeatureSpec) -> list[Encoded]:
        return [{"left": float(example["left"])} for example in examples]

    def module(self, spec: FeatureSpec) -> nn.Module:
        import torch
        import torch.nn.functional as F

        class Module(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = torch.nn.Linear(spec.dim, 1)

            def logits(self, features: PooledFeatures) -> Any:
                return self.linear(features.pooled).float().squeeze(1)

            def loss(self, features: PooledFeatures, batch: Batch) -> dict[str, Any]:
                logits = self.logits(features)
                return {"loss": F.binary_cross_entropy_with_logits(logits, batch.dense("left"), reduction="sum")}

            def predict(self, features: PooledFeatures, batch: Batch) -> list[Row]:
                return [{"leaves": p > 0.5, "probability": p} for p in self.logits(features).sigmoid().tolist()]

        return Module()

    def tally(self, batch: Batch, predictions: Sequence[Row]) -> dict[str, Any]:
        right = [
            row["leaves"] == bool(left) for row, left in zip(predictions, batch.dense("left").tolist(), strict=True)
        ]
        return {"right": np.float64(sum(right)), "count": np.float64(len(right))}

    def scores(self, tally: dict[str, Any]) -> dict[str, float]:
        return {"accuracy": float(tally["right"] / max(1.0, float(tally["count"])))}


def register(registry: Registry) -> None:
    registry.add("customers", Customers)
    registry.add("table", Table)
    registry.add("leaves", Leaves)
