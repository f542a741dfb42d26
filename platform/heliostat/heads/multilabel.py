"""Multi-label classification: any number of labels for a whole record, over the pooled features."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from heliostat.batch import Batch, Encoded
from heliostat.component import LATER, ClassName, Row, Settings, closest
from heliostat.errors import DataError
from heliostat.features import FeatureSpec, PooledFeatures
from heliostat.heads.classification import Text
from heliostat.plugin import Metric, Record, Tally, TaskHead

if TYPE_CHECKING:
    from torch import nn


class Labels(Record):
    """The labels of a record, with the probability of each."""

    labels: list[str] = Field(description="The labels that apply.")
    probabilities: dict[str, float] = Field(description="The probability of each label, by itself.")


class MultiLabel(TaskHead):
    """Any number of labels for a whole record. Subclass it to name its labels, its records and its samples."""

    class Config(Settings):
        """Settings of a multi-label classification."""

        labels: tuple[ClassName, ...] | None = None
        """The labels in order; None takes those that the train examples have."""
        threshold: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
        """Probability from which on a label applies."""
        dropout: Annotated[float, Field(ge=0.0, lt=1.0), LATER] = 0.1

    needs: ClassVar[type[PooledFeatures]] = PooledFeatures
    takes: ClassVar[type[Record]] = Text
    gives: ClassVar[type[Record]] = Labels
    target_fields: ClassVar[tuple[str, ...]] = ("labels",)
    class_fields: ClassVar[tuple[str, ...]] = ("labels",)
    baselines: ClassVar[tuple[str, ...]] = ("core.tfidf_labels",)
    selects: ClassVar[str] = "micro_f1"
    searched: ClassVar[Mapping[str, Any]] = {**TaskHead.searched, "head.dropout": "quniform(0,0.3,0.1)"}

    def __init__(self, config: Settings | None = None) -> None:
        super().__init__(config)
        self.labels: tuple[str, ...] = self.config.labels or ()

    def fit(self, examples: Iterable[Row]) -> None:
        """Collect the labels. Raises DataError when there is none, or one that head.labels lacks."""
        seen = {label for example in examples for label in _labels(example)}
        self.labels = self.config.labels or tuple(sorted(seen))
        unknown = sorted(seen - set(self.labels))
        if unknown:
            raise DataError(
                f"label {unknown[0]!r} of the train split is none of head.labels: {', '.join(self.labels)}."
            )
        if not seen:
            raise DataError("no example of the train split has a label. Check the adapter's list of labels.")

    def save(self, folder: Path) -> None:
        """Write the labels."""
        (folder / "labels.json").write_text(json.dumps(self.labels, ensure_ascii=False), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Read the labels."""
        self.labels = tuple(json.loads((folder / "labels.json").read_text(encoding="utf-8")))

    def encode(self, examples: Sequence[Row], spec: FeatureSpec) -> list[Encoded]:
        """1 for each label that applies, 0 for the others. Raises DataError for a label that is not known."""
        return [{"target": self._row(_labels(example))} for example in examples]

    def _row(self, labels: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        unknown = sorted(set(labels) - set(self.labels))
        if unknown:
            guess = closest(str(unknown[0]), list(self.labels))
            hint = f" Did you mean {guess!r}?" if guess else ""
            raise DataError(f"label {unknown[0]!r} is none of the labels {', '.join(self.labels)}.{hint}")
        return np.array([label in labels for label in self.labels], dtype=np.float32)

    def module(self, spec: FeatureSpec) -> nn.Module:
        """Dropout and one linear layer over `PooledFeatures.pooled`."""
        from heliostat.heads.multilabel_module import MultiLabelModule

        return MultiLabelModule(spec.dim, self.labels, dropout=self.config.dropout, threshold=self.config.threshold)

    def tally(self, batch: Batch, predictions: Sequence[Row]) -> Tally:
        """For each label, the examples that have it, that are given it, and both: [3, labels]."""
        targets = batch.ragged("target").stacked().numpy(force=True).astype(np.float64)
        given = np.array([[label in row["labels"] for label in self.labels] for row in predictions], dtype=np.float64)
        return {"hits": np.stack([targets.sum(0), given.sum(0), (targets * given).sum(0)])}

    def scores(self, tally: Tally) -> dict[str, float]:
        """Micro- and macro-F1; a label that neither occurs nor is given counts 0."""
        have, given, both = tally["hits"]
        f1 = 2 * both / np.maximum(have + given, 1.0)
        micro = 2 * both.sum() / max(1.0, have.sum() + given.sum())
        return {"micro_f1": float(micro), "macro_f1": float(f1.mean())}

    def metrics(self) -> dict[str, Metric]:
        """Micro-F1, macro-F1, exact match, the share of wrong label decisions, and the F1 of each label."""
        from heliostat.heads.multilabel_metrics import multilabel_metrics

        return multilabel_metrics(self.labels)


def _labels(example: Row) -> Sequence[str]:
    labels = example["labels"]
    if not isinstance(labels, (list, tuple)):
        raise DataError(f"'labels' must be a list of labels, which the adapter gives; found {labels!r}.")
    return labels
