"""Wear: the vibrations of a machine in, a grade from 0 (new) to 3 (worn) out. Nothing in it is the platform's own."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from heliostat.plugin import (
    Baseline,
    Batch,
    Chart,
    DataAdapter,
    DataError,
    Demo,
    Encoded,
    Encoder,
    FeatureSpec,
    Field,
    Metric,
    PooledFeatures,
    Record,
    Registry,
    RejectedRecord,
    Row,
    Settings,
    TaskHead,
)

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

GRADES = 4


class Log(DataAdapter):
    """A line of a sensor's log: readings with a space between them."""

    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            readings = [float(each) for each in row["readings"].split()]
            if not readings:
                raise RejectedRecord("readings: is empty")
            yield {"readings": readings, "grade": int(row["grade"]), "machine": row["machine"]}


class Vibration(Record):
    readings: list[Annotated[float, Field(ge=-1e3, le=1e3)]] = Field(
        min_length=4, max_length=500, description="Readings of the sensor, one a millisecond."
    )


class Wear(Record):
    grade: int = Field(ge=0, lt=GRADES, description="0 is new, 3 is worn.")
    beyond: list[float] = Field(description="How probable it is that the grade is above 0, 1 and 2.")


class Waves(Encoder):
    """Two convolutions over the readings, which are scaled as the train split's, and their mean and peak."""

    class Config(Settings):
        dim: int = 16

    gives = PooledFeatures
    scale = (0.0, 1.0)

    def fit(self, examples: Iterable[Row]) -> None:
        values = np.concatenate([example["readings"] for example in examples])
        self.scale = float(values.mean()), float(values.std()) or 1.0

    def save(self, folder: Path) -> None:
        (folder / "scale.json").write_text(json.dumps(self.scale))

    def load(self, folder: Path) -> None:
        self.scale = tuple(json.loads((folder / "scale.json").read_text()))

    def encode(self, examples: Sequence[Row]) -> list[Encoded]:
        mean, std = self.scale
        return [{"readings": (np.array(each["readings"], dtype=np.float32) - mean) / std} for each in examples]

    def spec(self) -> FeatureSpec:
        return FeatureSpec(2 * self.config.dim)

    def module(self) -> nn.Module:
        import torch

        dim = self.config.dim

        class Module(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = torch.nn.Sequential(
                    torch.nn.Conv1d(1, dim, 3, padding=1), torch.nn.GELU(), torch.nn.Conv1d(dim, dim, 3, padding=1)
                )

            def forward(self, batch: Batch) -> PooledFeatures:
                states = [self.layers(piece[None]).squeeze(0) for piece in batch.ragged("readings").split()]
                return PooledFeatures(torch.stack([torch.cat([each.mean(1), each.amax(1)]) for each in states]))

        return Module()


class Machine(Demo):
    title = "How worn is this machine?"
    description = "Grades from new to worn, by how a machine shakes."

    def bars(self, answer: Row) -> Mapping[str, float]:
        return {}

    def picture(self, answer: Row) -> str:
        return (
            f'<svg viewBox="0 0 100 12"><rect width="{25 * (answer["grade"] + 1)}" height="12" fill="#c77700"/></svg>'
        )

    def called(self, sample: Row) -> str:
        return f"{len(sample['readings'])} readings"


class Grade(TaskHead):
    """Cumulative logits (McCullagh 1980): one slope, and a threshold between each grade and the next."""

    needs = PooledFeatures
    takes = Vibration
    gives = Wear
    demo = Machine
    target_fields = ("grade",)
    baselines = ("wear.loudness",)
    samples = ({"readings": [0.0, 0.1, 0.0, -0.1, 0.1]}, {"readings": [3.0, -2.5, 2.0, -3.0, 3.1, -2.2]})
    selects = "kappa"

    def encode(self, examples: Sequence[Row], spec: FeatureSpec) -> list[Encoded]:
        if wrong := [each["grade"] for each in examples if each["grade"] not in range(GRADES)]:
            raise DataError(f"grade: is between 0 and {GRADES - 1}; found {wrong[0]}.")
        return [{"grade": float(each["grade"])} for each in examples]

    def module(self, spec: FeatureSpec) -> nn.Module:
        import torch
        import torch.nn.functional as F

        class Module(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.slope = torch.nn.Linear(spec.dim, 1)
                self.thresholds = torch.nn.Parameter(torch.linspace(-1.0, 1.0, GRADES - 1))

            def logits(self, features: PooledFeatures) -> Tensor:
                return self.slope(features.pooled).float() - self.thresholds

            def loss(self, features: PooledFeatures, batch: Batch) -> dict[str, Tensor]:
                above = batch.dense("grade")[:, None] > torch.arange(GRADES - 1)
                logits = self.logits(features)
                return {"loss": F.binary_cross_entropy_with_logits(logits, above.to(logits), reduction="sum")}

            def predict(self, features: PooledFeatures, batch: Batch) -> list[Row]:
                rows = self.logits(features).sigmoid().tolist()
                return [{"grade": sum(each > 0.5 for each in row), "beyond": row} for row in rows]

        return Module()

    def tally(self, batch: Batch, predictions: Sequence[Row]) -> dict[str, Any]:
        table = np.zeros((GRADES, GRADES))
        np.add.at(table, (batch.dense("grade").int().tolist(), [row["grade"] for row in predictions]), 1)
        return {"table": table}

    def scores(self, tally: dict[str, Any]) -> dict[str, float]:
        return {"kappa": kappa(tally["table"])}

    def metrics(self) -> dict[str, Metric]:
        return {"kappa": Kappa(), "far_off_error": far_off}

    def charts(self, views: Mapping[str, pd.DataFrame]) -> Sequence[Chart]:
        grades = list(range(GRADES))
        lines = {
            name: (grades, [float((table["grade"] == grade).mean()) for grade in grades])
            for name, table in views.items()
        }
        return [Chart("How often each grade is given", "grade", "share", lines)]


class Kappa:
    """Agreement beyond chance, by the square of the distance (Cohen 1968)."""

    def __call__(self, table: pd.DataFrame) -> float:
        found = np.zeros((GRADES, GRADES))
        np.add.at(found, (table["target_grade"].astype(int), table["grade"].astype(int)), 1)
        return kappa(found)


def kappa(table: np.ndarray[Any, Any]) -> float:
    places = np.arange(GRADES)
    weights = (places[:, None] - places) ** 2
    expected = np.outer(table.sum(1), table.sum(0)) / max(1.0, table.sum())
    return (
        float("nan")
        if not (weights * expected).sum()
        else float(1 - (weights * table).sum() / (weights * expected).sum())
    )


def far_off(table: pd.DataFrame) -> float:
    """The share of machines that are two grades off or more."""
    return float(((table["target_grade"] - table["grade"]).abs() >= 2).mean())


class Loudness(Baseline):
    """Thresholds on how loud a machine is: what an engineer would try first."""

    def fit(self, examples: Sequence[Row], head: TaskHead) -> None:
        means = [
            np.mean([loudness(row) for row in examples if row["grade"] == grade] or [0.0]) for grade in range(GRADES)
        ]
        self.thresholds = [(a + b) / 2 for a, b in itertools.pairwise(means)]

    def predict(self, examples: Sequence[Row]) -> list[Row]:
        above = [[float(loudness(row) > each) for each in self.thresholds] for row in examples]
        return [{"grade": int(sum(row)), "beyond": row} for row in above]


def loudness(row: Row) -> float:
    return float(np.std(row["readings"]))


def register(registry: Registry) -> None:
    registry.add("log", Log)
    registry.add("waves", Waves)
    registry.add("grade", Grade)
    registry.add("loudness", Loudness)
