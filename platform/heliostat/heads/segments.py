"""One label for each of the texts that an example is made of, as the role of each sentence of an abstract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from heliostat.batch import Batch, Encoded
from heliostat.component import Row, Settings, no_effect
from heliostat.errors import DataError
from heliostat.features import Features, FeatureSpec, SegmentFeatures
from heliostat.heads.classification import Classification
from heliostat.heads.lexical import LexicalSettings
from heliostat.plugin import Metric, Record, Tally, TaskHead

if TYPE_CHECKING:
    from torch import nn

TARGETS = "segment_targets"
"""The column that holds the class of each text, as a number."""

SegmentText = Annotated[str, Field(min_length=1, max_length=20_000, pattern=r"\S")]


class Segments(Record):
    """Texts that belong together, in order."""

    texts: list[SegmentText] = Field(min_length=1, max_length=500, description="The texts in order, a label for each.")


class SegmentClasses(Record):
    """The label of each text, with the probability of each class."""

    labels: list[str] = Field(description="The most probable class of each text.")
    probabilities: list[dict[str, float]] = Field(description="For each text the probability of each class.")


class SegmentLabels(TaskHead):
    """One of several classes for each text of a list. Subclass it to name its labels, its records and its samples."""

    class Config(Classification.Config):
        """Settings of a classification; each text counts as one."""

        @field_validator("lexical")
        @classmethod
        def _of_whole_records(cls, value: LexicalSettings | None) -> LexicalSettings | None:
            if value is not None:
                raise no_effect("lexical", "a list of texts", "take core.classification, a text an example")
            return value

    needs: ClassVar[type[Features]] = SegmentFeatures
    takes: ClassVar[type[Record]] = Segments
    gives: ClassVar[type[Record]] = SegmentClasses
    target_fields: ClassVar[tuple[str, ...]] = ("labels",)
    class_fields: ClassVar[tuple[str, ...]] = ("labels",)
    baselines: ClassVar[tuple[str, ...]] = ("core.tfidf_segments",)
    selects: ClassVar[str] = "macro_f1"
    searched: ClassVar[Mapping[str, Any]] = Classification.searched

    def __init__(self, config: Settings | None = None) -> None:
        super().__init__(config)
        shared = {name: getattr(self.config, name) for name in Classification.Config.model_fields}
        self.each = Classification(Classification.Config(**shared))
        """The classification of one text."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes in order; those of the train examples where the settings name none."""
        return self.each.labels

    def fit(self, examples: Iterable[Row]) -> None:
        """Collect the labels and their weights. Raises DataError when there are fewer than two classes."""
        self.each.fit({"label": label} for example in examples for label in _labels(example))

    def save(self, folder: Path) -> None:
        """Write the labels and their weights."""
        self.each.save(folder)

    def load(self, folder: Path) -> None:
        """Read the labels and their weights."""
        self.each.load(folder)

    def encode(self, examples: Sequence[Row], spec: FeatureSpec) -> list[Encoded]:
        """The class of each text. Raises DataError for an unknown label, or when texts and labels differ in number."""
        rows: list[Encoded] = []
        for example in examples:
            labels, field = _labels(example), next(iter(type(self).takes.model_fields))
            if len(labels) != len(example[field]):
                raise DataError(
                    f"an example has {len(example[field])} {field} and {len(labels)} labels; it needs one each."
                )
            targets = [row["target"] for row in self.each.encode([{"label": label} for label in labels], spec)]
            rows.append({TARGETS: np.array(targets, dtype=np.int32)})
        return rows

    def counts(self, batch: Batch) -> dict[str, float]:
        """The summed weights of the targets."""
        targets = batch.ragged(TARGETS).values.numpy(force=True)
        return {"loss": float(np.asarray(self.each.label_weights)[targets].sum())}

    def module(self, spec: FeatureSpec) -> nn.Module:
        """Dropout and one linear layer over the vector of each text."""
        from heliostat.heads.segments_module import SegmentLabelsModule

        return SegmentLabelsModule(self.each.module(spec))

    def tally(self, batch: Batch, predictions: Sequence[Row]) -> Tally:
        """The confusion matrix over all texts: [true class, predicted class]."""
        each = Batch(batch.ids, {"target": batch.ragged(TARGETS).values})
        return self.each.tally(each, [{"label": label} for row in predictions for label in row["labels"]])

    def scores(self, tally: Tally) -> dict[str, float]:
        """Accuracy and macro-F1 over all texts."""
        return self.each.scores(tally)

    def calibrate(
        self, examples: Sequence[Row], predictions: Sequence[Row], groups: Sequence[float] | None = None
    ) -> bool:
        """Fit the decision, where `decide` asks for one. The texts of an example are one group."""
        of_examples = range(len(examples)) if groups is None else groups
        return self.each.calibrate(
            [{"label": label} for example in examples for label in _labels(example)],
            [{"probabilities": shares} for row in predictions for shares in row["probabilities"]],
            [float(group) for group, example in zip(of_examples, examples, strict=True) for _ in _labels(example)],
        )

    def metrics(self) -> dict[str, Metric]:
        """The scores of a classification over all texts; a resample draws whole examples."""
        from heliostat.heads.segments_metrics import over_segments

        return {name: over_segments(metric) for name, metric in self.each.metrics().items()}


def _labels(example: Row) -> Sequence[str]:
    labels = example["labels"]
    if not isinstance(labels, (list, tuple)):
        raise DataError(f"'labels' must be a list with a label for each text; found a {type(labels).__name__}.")
    return labels
