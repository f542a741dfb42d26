"""Classes in a tree: a top level and levels below it, answered by one path that is consistent down the tree."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from heliostat.batch import Batch, Encoded
from heliostat.component import LATER, Name, Row, Settings
from heliostat.errors import DataError
from heliostat.features import FeatureSpec, PooledFeatures
from heliostat.heads.classification import Classification, Text
from heliostat.heads.lexical import Lexical, LexicalSettings, texts_of
from heliostat.heads.tree import UNKNOWN, Tree
from heliostat.plugin import Metric, Record, Tally, TaskHead

if TYPE_CHECKING:
    from torch import nn


class PathInTree(Record):
    """A path down a tree of classes."""

    path: list[str] = Field(description="The chosen class of each level, the top one first; each lies below the last.")
    confidences: list[float] = Field(description="The probability of each class of the path.")
    probabilities: dict[str, float] = Field(description="The probability of each class of the top level.")
    choices: list[dict[str, float]] = Field(description="For each level its most probable classes, wherever they lie.")


class Hierarchy(TaskHead):
    """One class on each level of a tree. Subclass it to name its levels, its records and its samples.

    A class is chosen among the children of the one above it, so a path never contradicts itself. The top level is a
    classification; its scores have plain names (`macro_f1`), those of others begin with the level's.
    """

    class Config(Settings):
        """Settings of a classification in a tree."""

        levels: Annotated[tuple[Name, ...], Field(min_length=2)] = ("top", "below")
        """Names of the levels, the top one first; an example's `path` has a class for each."""
        dropout: Annotated[float, Field(ge=0.0, lt=1.0), LATER] = 0.1
        class_weights: Annotated[Literal["none", "balanced", "sqrt"], LATER] = "none"
        """Weight of a class of the top level: 1, the inverse of its share, or that inverse's root."""
        below_weight: Annotated[float, Field(gt=0.0), LATER] = 1.0
        """Weight in the loss of each level below the top, which weighs 1."""
        decide: Annotated[Literal["most_probable", "macro_f1"], LATER] = "most_probable"
        """Answer with the most probable class, or weigh those of the top level as serves its macro-F1 on valid."""
        lexical: LexicalSettings | None = None
        """A linear model over words and characters whose scores are added to those of the top level."""

        @field_validator("levels")
        @classmethod
        def _are_different(cls, value: tuple[str, ...]) -> tuple[str, ...]:
            if len(set(value)) < len(value):
                raise ValueError("levels have names of their own.")
            return value

    needs: ClassVar[type[PooledFeatures]] = PooledFeatures
    takes: ClassVar[type[Record]] = Text
    gives: ClassVar[type[Record]] = PathInTree
    target_fields: ClassVar[tuple[str, ...]] = ("path",)
    class_fields: ClassVar[tuple[str, ...]] = ("path",)
    baselines: ClassVar[tuple[str, ...]] = ("core.tfidf_paths",)
    selects: ClassVar[str] = "macro_f1"
    searched: ClassVar[Mapping[str, Any]] = {
        **Classification.searched,
        "head.below_weight": "log(0.3,3)",
    }

    def __init__(self, config: Settings | None = None) -> None:
        super().__init__(config)
        self.tree = Tree((), ())
        # The top level is a plain classification: its weights, its decision, its scores.
        shared = {name: getattr(self.config, name) for name in ("dropout", "class_weights", "decide")}
        self.top = Classification(Classification.Config(**shared))
        self.lexical: Lexical | None = None

    def fit(self, examples: Iterable[Row]) -> None:
        """Collect the tree. Raises DataError for a path of another length, or a class below two parents."""
        settings = self.config.lexical
        examples = examples if settings is None else list(examples)
        paths = Counter(tuple(self._path(example)) for example in examples)
        self.tree = Tree.of(paths)
        self.top.fit({"label": path[0]} for path in paths.elements())
        if settings is not None and isinstance(examples, list):
            numbers = [self.top.labels.index(example["path"][0]) for example in examples]
            self.lexical = Lexical.fit(texts_of(examples, self.takes), numbers, len(self.top.labels), settings)

    def save(self, folder: Path) -> None:
        """Write the tree and what the top level has fitted."""
        (folder / "tree.json").write_text(json.dumps(self.tree, ensure_ascii=False, indent=1), encoding="utf-8")
        self.top.save(folder)
        if self.lexical:
            self.lexical.save(folder)

    def load(self, folder: Path) -> None:
        """Read the tree and what the top level has fitted."""
        labels, parents = json.loads((folder / "tree.json").read_text(encoding="utf-8"))
        self.tree = Tree(tuple(map(tuple, labels)), tuple(map(tuple, parents)))
        self.top.load(folder)
        self.lexical = Lexical.load(folder) if self.config.lexical else None

    def read(self, examples: Sequence[Row]) -> list[Encoded]:
        """What the linear model says of each record, where there is one."""
        return self.lexical.margins(texts_of(examples, self.takes)) if self.lexical else super().read(examples)

    def _path(self, example: Row) -> Sequence[str]:
        path = example["path"]
        if not isinstance(path, (list, tuple)) or len(path) != len(self.config.levels):
            levels = ", ".join(self.config.levels)
            raise DataError(f"'path' must be a list with a class for each of head.levels ({levels}).")
        return path

    def encode(self, examples: Sequence[Row], spec: FeatureSpec) -> list[Encoded]:
        """The number of each level's class; -1 for one that the train split has not, which is learned from no more."""
        numbers = [self.tree.numbers(self._path(example)) for example in examples]
        return [{column: row[level] for level, column in enumerate(self._columns())} for row in numbers]

    def _columns(self) -> list[str]:
        return [f"target_{level}" for level in self.config.levels]

    def counts(self, batch: Batch) -> dict[str, float]:
        """The summed weights of the targets of each level."""
        counts = {}
        for place, (level, column) in enumerate(zip(self.config.levels, self._columns(), strict=True)):
            targets = batch.dense(column).numpy(force=True)
            known = targets[targets != UNKNOWN]
            counts[level] = float(np.asarray(self.top.label_weights)[known].sum() if place == 0 else len(known))
        return counts

    def is_error(self, score: str) -> bool:
        """Whether less of a validation score is better: as of the loss of each level, which goes by its name."""
        return score in self.config.levels or super().is_error(score)

    def weights(self) -> dict[str, float]:
        """The weight of the levels below the top."""
        return dict.fromkeys(self.config.levels[1:], self.config.below_weight)

    def module(self, spec: FeatureSpec) -> nn.Module:
        """Dropout and one linear layer to all classes of the tree."""
        from heliostat.heads.hierarchy_module import HierarchyModule

        return HierarchyModule(
            spec.dim,
            self.tree,
            self.config.levels,
            self.top.label_weights,
            dropout=self.config.dropout,
            decision=self.top.decision,
            lexical=self.config.lexical.weight if self.config.lexical else 0.0,
        )

    def tally(self, batch: Batch, predictions: Sequence[Row]) -> Tally:
        """For each level and class: the examples that have it, that are given it, and both; and all: [4, classes]."""
        tally: Tally = {}
        for place, (level, column) in enumerate(zip(self.config.levels, self._columns(), strict=True)):
            index = {label: number for number, label in enumerate(self.tree.labels[place])}
            size = len(index)
            targets = batch.dense(column).numpy(force=True)
            given = np.array([index[row["path"][place]] for row in predictions], dtype=np.int64)
            known, hits = targets[targets != UNKNOWN], given[given == targets]
            sums = [np.bincount(numbers, minlength=size) for numbers in (known, given, hits)]
            tally[level] = np.stack([*sums, np.eye(1, size)[0] * len(given)]).astype(np.float64)
        return tally

    def scores(self, tally: Tally) -> dict[str, float]:
        """Accuracy and macro-F1 of each level, over the classes that occur or are given."""
        scores = {}
        for place, level in enumerate(self.config.levels):
            have, given, both, count = tally[level]
            there = have + given > 0
            f1 = 2 * both[there] / (have + given)[there]
            before = f"{level}_" if place else ""
            scores[f"{before}accuracy"] = float(both.sum() / max(1.0, count.sum()))
            scores[f"{before}macro_f1"] = float(f1.mean()) if len(f1) else 0.0
        return scores

    def calibrate(
        self, examples: Sequence[Row], predictions: Sequence[Row], groups: Sequence[float] | None = None
    ) -> bool:
        """Fit the decision of the top level, where `decide` asks for one."""
        known = set(self.tree.labels[0])
        places = [place for place, example in enumerate(examples) if example["path"][0] in known]
        return self.top.calibrate(
            [{"label": examples[place]["path"][0]} for place in places],
            [predictions[place] for place in places],
            None if groups is None else [groups[place] for place in places],
        )

    def metrics(self) -> dict[str, Metric]:
        """The scores of a classification for the top level, accuracy and macro-F1 for those below."""
        from heliostat.heads.hierarchy_metrics import hierarchy_metrics

        return hierarchy_metrics(self.config.levels, self.tree)
