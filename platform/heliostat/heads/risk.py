"""Risk: the probability that something happens to a record, kept honest on the valid split, with its reasons."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from heliostat.batch import Encoded
from heliostat.component import LATER, ClassName, Row, Settings, closest
from heliostat.errors import DataError
from heliostat.features import FeatureSpec, PooledFeatures
from heliostat.heads.calibration import Calibration, fit_calibration
from heliostat.heads.classification import Text
from heliostat.plugin import Chart, Metric, Record, Tally, TaskHead

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn


class Risky(Record):
    """How probable the event is, what that means for a decision, and which fields moved it."""

    label: str = Field(
        description="The event, where its risk is above the threshold that the costs give; or the other."
    )
    risk: float = Field(ge=0.0, le=1.0, description="The probability of the event.")
    probabilities: dict[str, float] = Field(description="The probability of both; they add up to 1.")
    reasons: dict[str, float] = Field(
        description="What each field adds to the risk, the strongest first: the risk, less the risk without that field."
    )


class Risk(TaskHead):
    """Whether an event happens, as a calibrated probability. Subclass it to name labels, records and samples."""

    class Config(Settings):
        """Settings of a risk."""

        labels: tuple[ClassName, ClassName] = ("no", "yes")
        """What may become of a record; the second is the event whose risk is told."""
        cost_of_miss: Annotated[float, Field(gt=0.0)] = 1.0
        """What an event costs that was not foreseen."""
        cost_of_alarm: Annotated[float, Field(gt=0.0)] = 1.0
        """What a record costs that was taken for the event and is none."""
        calibration: Literal["none", "platt", "isotonic"] = "platt"
        """What makes probabilities of scores on the valid split: nothing, a line in log-odds, or a rising staircase."""
        reasons: bool = True
        """Whether answers say what each field added; it costs one more pass for each field."""
        dropout: Annotated[float, Field(ge=0.0, lt=1.0), LATER] = 0.1

    needs: ClassVar[type[PooledFeatures]] = PooledFeatures
    takes: ClassVar[type[Record]] = Text
    gives: ClassVar[type[Record]] = Risky
    target_fields: ClassVar[tuple[str, ...]] = ("label",)
    class_fields: ClassVar[tuple[str, ...]] = ("label",)
    baselines: ClassVar[tuple[str, ...]] = ("core.boosting",)
    selects: ClassVar[str] = "auc"
    searched: ClassVar[Mapping[str, Any]] = {
        "train.lr": "log(3e-4,1e-2)",
        "train.tokens_per_batch": "choice(2048,4096,8192,16384)",
        "train.weight_decay": "log(1e-3,0.3)",
        "train.epochs": "int(2,6)",
        "head.dropout": "quniform(0,0.3,0.1)",
    }

    def __init__(self, config: Settings | None = None) -> None:
        super().__init__(config)
        self.calibration: Calibration | None = None
        self.share = 0.5
        """The event's share of the train split."""

    @property
    def labels(self) -> tuple[str, str]:
        """The other label and the event."""
        labels: tuple[str, str] = self.config.labels
        return labels

    @property
    def threshold(self) -> float:
        """The risk above which acting costs less than not acting (Elkan 2001)."""
        alarm, miss = self.config.cost_of_alarm, self.config.cost_of_miss
        return float(alarm / (alarm + miss))

    def fit(self, examples: Iterable[Row]) -> None:
        """Count the events. Raises DataError for an unknown label, or where all examples have one."""
        seen = Counter(example["label"] for example in examples)
        unknown = sorted(set(map(str, seen)) - set(self.labels))
        if unknown:
            raise DataError(
                f"label {unknown[0]!r} of the train split is none of head.labels: {', '.join(self.labels)}."
            )
        if len(seen) < 2:
            raise DataError(
                f"a risk needs examples with the event and without it; the {seen.total()} of the train split "
                f"are all '{next(iter(seen), 'none')}'. Check the adapter's label."
            )
        self.share = seen[self.labels[1]] / seen.total()

    def save(self, folder: Path) -> None:
        """Write `risk.json`."""
        values = {"share": self.share, "calibration": self.calibration._asdict() if self.calibration else None}
        (folder / "risk.json").write_text(json.dumps(values, indent=1), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        values = json.loads((folder / "risk.json").read_text(encoding="utf-8"))
        self.share = values["share"]
        self.calibration = Calibration.of(values["calibration"]) if values["calibration"] else None

    def encode(self, examples: Sequence[Row], spec: FeatureSpec) -> list[Encoded]:
        """1 for the event, 0 for the other. Raises DataError for a label that is neither."""
        for example in examples:
            if example["label"] not in self.labels:
                guess = closest(str(example["label"]), list(self.labels))
                hint = f" Did you mean {guess!r}?" if guess else ""
                raise DataError(f"label {example['label']!r} is none of {', '.join(self.labels)}.{hint}")
        return [{"target": float(example["label"] == self.labels[1])} for example in examples]

    def module(self, spec: FeatureSpec) -> nn.Module:
        """Dropout and one logit over `PooledFeatures.pooled`."""
        from heliostat.heads.risk_module import RiskModule

        return RiskModule(
            spec.dim,
            self.labels,
            share=self.share,
            threshold=self.threshold,
            dropout=self.config.dropout,
            calibration=self.calibration,
            reasons=self.config.reasons,
        )

    def scores(self, tally: Tally) -> dict[str, float]:
        """AUC, average precision and KS from the histograms of the scores, and the Brier error; before calibration."""
        from heliostat.heads.risk_metrics import scores_of_histograms

        return {
            **scores_of_histograms(tally["events"], tally["others"]),
            "brier_error": float(tally["squares"] / max(1.0, float(tally["events"].sum() + tally["others"].sum()))),
        }

    def calibrate(
        self, examples: Sequence[Row], predictions: Sequence[Row], groups: Sequence[float] | None = None
    ) -> bool:
        """Fit how scores become probabilities, where `calibration` asks for it."""
        if self.config.calibration == "none":
            return False
        risks = np.array([row["risk"] for row in predictions])
        events = np.array([example["label"] == self.labels[1] for example in examples])
        self.calibration = fit_calibration(risks, events, self.config.calibration)
        return True

    def metrics(self) -> dict[str, Metric]:
        """AUC, average precision, KS, Brier error, calibration error and the cost a record."""
        from heliostat.heads.risk_metrics import risk_metrics

        return risk_metrics(self.labels, self.config.cost_of_miss, self.config.cost_of_alarm)

    def charts(self, views: Mapping[str, pd.DataFrame]) -> Sequence[Chart]:
        """How calibrated the risk is, and what deciding by it is worth."""
        from heliostat.heads.risk_charts import risk_charts

        return risk_charts(views, self.labels[1], self.config.cost_of_miss, self.config.cost_of_alarm)
