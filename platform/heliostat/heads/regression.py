"""Regression: one number, over the pooled features."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from heliostat.batch import Batch, Encoded
from heliostat.component import LATER, Row, Settings, no_effect
from heliostat.errors import DataError
from heliostat.features import FeatureSpec, PooledFeatures
from heliostat.heads.classification import Text
from heliostat.plugin import Metric, Record, Tally, TaskHead

if TYPE_CHECKING:
    from torch import nn


class Number(Record):
    """The number that a record was given."""

    value: float = Field(description="The number.")


class Regression(TaskHead):
    """One number for a whole record. Subclass it to name its records and its samples."""

    class Config(Settings):
        """Settings of a regression."""

        loss: Literal["mse", "huber"] = "mse"
        """Squared error, or one that grows linearly beyond `delta` and so minds outliers less (Huber 1964)."""
        delta: Annotated[float, Field(gt=0.0)] | None = None
        """Where the Huber loss turns linear, in standard deviations of the train targets; None takes 1."""
        dropout: Annotated[float, Field(ge=0.0, lt=1.0), LATER] = 0.1

        @model_validator(mode="after")
        def _delta_belongs_to_huber(self) -> Self:
            if self.delta is not None and self.loss != "huber":
                raise no_effect("delta", f"loss: {self.loss}", "take loss: huber")
            return self

    needs: ClassVar[type[PooledFeatures]] = PooledFeatures
    takes: ClassVar[type[Record]] = Text
    gives: ClassVar[type[Record]] = Number
    target_fields: ClassVar[tuple[str, ...]] = ("value",)
    baselines: ClassVar[tuple[str, ...]] = ("core.mean", "core.ridge")
    selects: ClassVar[str] = "root_mean_squared_error"
    searched: ClassVar[Mapping[str, Any]] = {**TaskHead.searched, "head.dropout": "quniform(0,0.3,0.1)"}

    def __init__(self, config: Settings | None = None) -> None:
        super().__init__(config)
        self.mean, self.std = 0.0, 1.0

    def fit(self, examples: Iterable[Row]) -> None:
        """Take the mean and the standard deviation of the targets. Raises DataError when all are equal."""
        values = np.array([_number(example) for example in examples])
        if len(values) == 0 or float(values.std()) == 0.0:
            raise DataError(
                f"a regression needs targets that differ; the train split has {len(values)} examples, all with the "
                "same 'value'. Check the adapter's value column."
            )
        self.mean, self.std = float(values.mean()), float(values.std())

    def save(self, folder: Path) -> None:
        """Write the mean and the standard deviation."""
        (folder / "scale.json").write_text(json.dumps({"mean": self.mean, "std": self.std}), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Read the mean and the standard deviation."""
        fitted = json.loads((folder / "scale.json").read_text(encoding="utf-8"))
        self.mean, self.std = fitted["mean"], fitted["std"]

    def encode(self, examples: Sequence[Row], spec: FeatureSpec) -> list[Encoded]:
        """Each target in standard deviations from the mean. Raises DataError for one that is no finite number."""
        return [{"target": (_number(example) - self.mean) / self.std} for example in examples]

    def module(self, spec: FeatureSpec) -> nn.Module:
        """Dropout and one linear layer over `PooledFeatures.pooled`."""
        from heliostat.heads.regression_module import RegressionModule

        delta = (self.config.delta or 1.0) if self.config.loss == "huber" else None
        return RegressionModule(spec.dim, self.mean, self.std, dropout=self.config.dropout, delta=delta)

    def tally(self, batch: Batch, predictions: Sequence[Row]) -> Tally:
        """Sums over the examples: their count, absolute and squared errors, targets and squared targets.

        All but the count in standard deviations of the train targets.
        """
        targets = batch.dense("target").numpy(force=True).astype(np.float64)
        errors = (np.array([row["value"] for row in predictions]) - self.mean) / self.std - targets
        sums = (len(targets), np.abs(errors).sum(), (errors**2).sum(), targets.sum(), (targets**2).sum())
        return {"sums": np.array(sums, dtype=np.float64)}

    def scores(self, tally: Tally) -> dict[str, float]:
        """Mean absolute and root mean squared error in the target's unit, and R2 (0 where all targets are equal)."""
        count, absolute, squared, total, total_squares = tally["sums"].tolist()
        count = max(1.0, count)
        spread = total_squares - total**2 / count
        return {
            "mean_absolute_error": absolute / count * self.std,
            "root_mean_squared_error": math.sqrt(squared / count) * self.std,
            "r2": 1.0 - squared / spread if spread > 1e-12 else 0.0,
        }

    def metrics(self) -> dict[str, Metric]:
        """Root mean squared and mean absolute error, R2 and Spearman's rank correlation."""
        from heliostat.heads.regression_metrics import regression_metrics

        return regression_metrics()


def _number(example: Row) -> float:
    try:
        value = float(example["value"])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"the target 'value' must be a finite number; found {example['value']!r}.")
    return value
