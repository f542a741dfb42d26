"""Classification: one logit a class, over the pooled features."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from heliostat.batch import Batch, Encoded
from heliostat.component import LATER, ClassName, Row, Settings, closest, no_effect
from heliostat.errors import DataError
from heliostat.features import FeatureSpec, PooledFeatures
from heliostat.heads.decision import Decision, fit_decision
from heliostat.heads.lexical import Lexical, LexicalSettings, texts_of
from heliostat.plugin import Metric, Record, Tally, TaskHead

if TYPE_CHECKING:
    from torch import nn


class Text(Record):
    """A text to classify."""

    text: str = Field(min_length=1, max_length=20_000, pattern=r"\S", description="The text to classify.")


class Class(Record):
    """The class of a record, with the probability of each."""

    label: str = Field(description="The most probable class.")
    probabilities: dict[str, float] = Field(description="The probability of each class; they add up to 1.")


class Classification(TaskHead):
    """One of several classes for a whole record. Subclass it to name its labels, its records and its samples."""

    class Config(Settings):
        """Settings of a classification."""

        labels: tuple[ClassName, ...] | None = None
        """The classes in order; None takes those that the train examples have."""
        dropout: Annotated[float, Field(ge=0.0, lt=1.0), LATER] = 0.1
        class_weights: Annotated[Literal["none", "balanced", "sqrt"], LATER] = "none"
        """Weight of a class in the loss: 1, the inverse of its share, or that inverse's root (mean 1 over examples)."""
        loss: Annotated[Literal["cross_entropy", "focal"], LATER] = "cross_entropy"
        """Focal: examples that are answered well count less (Lin et al. 2017)."""
        gamma: Annotated[Annotated[float, Field(gt=0.0)] | None, LATER] = None
        """How much less: each example weighs (1 - its probability) ** gamma. Of the focal loss; None takes 2."""
        label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0), LATER] = 0.0
        """Share of the target that is spread over all classes. Of the cross entropy."""
        decide: Annotated[Literal["most_probable", "macro_f1"], LATER] = "most_probable"
        """Answer with the most probable class, or weigh the classes as serves the macro-F1 on the valid split."""

        lexical: LexicalSettings | None = None
        """A linear model over words and characters whose scores are added to each answer; None adds none."""

        @model_validator(mode="after")
        def _each_loss_has_its_own(self) -> Self:
            if self.gamma is not None and self.loss != "focal":
                raise no_effect("gamma", f"loss: {self.loss}", "take loss: focal")
            if self.label_smoothing and self.loss == "focal":
                raise no_effect("label_smoothing", "loss: focal", "take loss: cross_entropy")
            return self

    needs: ClassVar[type[PooledFeatures]] = PooledFeatures
    takes: ClassVar[type[Record]] = Text
    gives: ClassVar[type[Record]] = Class
    target_fields: ClassVar[tuple[str, ...]] = ("label",)
    class_fields: ClassVar[tuple[str, ...]] = ("label",)
    baselines: ClassVar[tuple[str, ...]] = ("core.tfidf",)
    selects: ClassVar[str] = "macro_f1"
    searched: ClassVar[Mapping[str, Any]] = {
        "train.lr": "log(3e-5,3e-3)",
        "train.tokens_per_batch": "choice(1024,2048,4096,8192)",
        "train.weight_decay": "log(1e-3,0.3)",
        "head.dropout": "quniform(0,0.3,0.1)",
        "head.class_weights": "choice(none,sqrt,balanced)",
    }

    def __init__(self, config: Settings | None = None) -> None:
        super().__init__(config)
        self.labels: tuple[str, ...] = self.config.labels or ()
        self.label_counts: tuple[int, ...] = ()
        """Train examples of each class."""
        self.label_weights: tuple[float, ...] = ()
        self.decision: Decision | None = None
        self.lexical: Lexical | None = None

    def fit(self, examples: Iterable[Row]) -> None:
        """Collect the labels and their weights. Raises DataError when there are fewer than two classes."""
        settings = self.config.lexical
        examples = examples if settings is None else list(examples)
        seen = Counter(example["label"] for example in examples)
        self.labels = self.config.labels or tuple(sorted(seen))
        unknown = sorted(set(seen) - set(self.labels))
        if unknown:
            raise DataError(
                f"label {unknown[0]!r} of the train split is none of head.labels: {', '.join(self.labels)}."
            )
        if len([label for label in self.labels if seen[label]]) < 2:
            raise DataError(
                f"a classification needs two classes or more; the train split has only {', '.join(seen) or 'none'} "
                f"({sum(seen.values())} examples). Check the adapter's label column."
            )
        self._weigh(tuple(seen[label] for label in self.labels))
        if settings is not None and isinstance(examples, list):
            numbers = [self.labels.index(example["label"]) for example in examples]
            self.lexical = Lexical.fit(texts_of(examples, self.takes), numbers, len(self.labels), settings)

    def _weigh(self, counts: tuple[int, ...]) -> None:
        power = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}[self.config.class_weights]
        raw = [(1.0 / count) ** power if count else 0.0 for count in counts]
        mean = sum(weight * count for weight, count in zip(raw, counts, strict=True)) / max(1, sum(counts))
        self.label_counts, self.label_weights = counts, tuple(weight / mean for weight in raw)

    def save(self, folder: Path) -> None:
        """Write the labels, how often each came, and the decision."""
        fitted = {
            "labels": self.labels,
            "label_counts": self.label_counts,
            "label_weights": self.label_weights,
            "decision": self.decision,
        }
        (folder / "labels.json").write_text(json.dumps(fitted, ensure_ascii=False, indent=1), encoding="utf-8")
        if self.lexical:
            self.lexical.save(folder)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; older files hold the weights of the labels and no counts."""
        fitted = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
        self.labels, self.label_weights = tuple(fitted["labels"]), tuple(fitted["label_weights"])
        if "label_counts" in fitted:
            self._weigh(tuple(fitted["label_counts"]))
        decision = fitted["decision"]
        self.decision = Decision(tuple(decision[0]), float(decision[1])) if decision else None
        self.lexical = Lexical.load(folder) if self.config.lexical else None

    def read(self, examples: Sequence[Row]) -> list[Encoded]:
        """What the linear model says of each record, where there is one."""
        return self.lexical.margins(texts_of(examples, self.takes)) if self.lexical else super().read(examples)

    def encode(self, examples: Sequence[Row], spec: FeatureSpec) -> list[Encoded]:
        """The index of each label. Raises DataError for a label that is none of the classes."""
        index = {label: place for place, label in enumerate(self.labels)}
        for example in examples:
            if example["label"] not in index:
                guess = closest(str(example["label"]), list(self.labels))
                hint = f" Did you mean {guess!r}?" if guess else ""
                raise DataError(f"label {example['label']!r} is none of the classes {', '.join(self.labels)}.{hint}")
        return [{"target": index[example["label"]]} for example in examples]

    def counts(self, batch: Batch) -> dict[str, float]:
        """The summed weights of the targets."""
        targets = batch.dense("target").numpy(force=True)
        return {"loss": float(np.asarray(self.label_weights)[targets].sum())}

    def module(self, spec: FeatureSpec) -> nn.Module:
        """Dropout and one linear layer over `PooledFeatures.pooled`."""
        from heliostat.heads.classification_module import ClassificationModule

        return ClassificationModule(
            spec.dim,
            self.labels,
            self.label_weights,
            dropout=self.config.dropout,
            label_smoothing=self.config.label_smoothing,
            gamma=(self.config.gamma or 2.0) if self.config.loss == "focal" else 0.0,
            decision=self.decision,
            lexical=self.config.lexical.weight if self.config.lexical else 0.0,
        )

    def tally(self, batch: Batch, predictions: Sequence[Row]) -> Tally:
        """The confusion matrix: [true class, predicted class]."""
        size = len(self.labels)
        index = {label: place for place, label in enumerate(self.labels)}
        predicted = np.array([index[row["label"]] for row in predictions], dtype=np.int64)
        cells = batch.dense("target").numpy(force=True) * size + predicted
        return {"confusion": np.bincount(cells, minlength=size * size).reshape(size, size).astype(np.float64)}

    def scores(self, tally: Tally) -> dict[str, float]:
        """Accuracy and macro-F1, from the confusion matrix; a class that neither occurs nor is predicted counts 0."""
        confusion = tally["confusion"]
        hits = np.diag(confusion)
        f1 = 2 * hits / np.maximum(confusion.sum(0) + confusion.sum(1), 1.0)
        return {"accuracy": float(hits.sum() / max(1.0, confusion.sum())), "macro_f1": float(f1.mean())}

    def calibrate(
        self, examples: Sequence[Row], predictions: Sequence[Row], groups: Sequence[float] | None = None
    ) -> bool:
        """Fit the decision, where `decide` asks for one."""
        if self.config.decide == "most_probable":
            return False
        index = {label: place for place, label in enumerate(self.labels)}
        probabilities = np.array([[row["probabilities"][label] for label in self.labels] for row in predictions])
        targets = np.array([index[example["label"]] for example in examples], dtype=np.int64)
        self.decision = fit_decision(probabilities, targets, None if groups is None else np.asarray(groups))
        return True

    def metrics(self) -> dict[str, Metric]:
        """Accuracy, macro-F1, precision and recall by class, AUC and calibration error."""
        from heliostat.heads.classification_metrics import classification_metrics

        return classification_metrics(self.labels)
