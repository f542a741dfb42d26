"""Gradient-boosted trees: what an expert tries first on a table, and hard to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field

from heliostat.component import Row, Settings
from heliostat.errors import DataError
from heliostat.plugin import Baseline, TaskHead

_MOST_LEVELS = 250
"""Values of a category that stay apart, the most frequent first: the trees take 255 at most."""
_OTHER = "(other)"


class BoostingBaseline(Baseline):
    """Histogram gradient boosting over every number, category and date that the head takes; classes or a number."""

    class Config(Settings):
        """Settings of the trees."""

        fields: tuple[str, ...] | None = None
        """Fields of the example; None takes all that the head takes."""
        trees: Annotated[int, Field(ge=1, le=5000)] = 200
        learning_rate: Annotated[float, Field(gt=0.0)] = 0.1
        leaves: Annotated[int, Field(ge=2, le=1024)] = 31
        """Leaves of a tree."""

    def fit(self, examples: Sequence[Row], head: TaskHead) -> None:
        """Learn from `label` (classes) or `value` (a number). Raises DataError where there is neither."""
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        name = next((name for name in ("label", "value") if name in head.target_fields), None)
        if name is None or not examples:
            raise DataError("core.boosting learns the field 'label' or 'value' of train examples, and there is none.")
        self.fields = self.config.fields or tuple(head.takes.model_fields)
        self.kinds = {field: _kind(head, field) for field in self.fields}
        self.levels = {
            field: _levels([example.get(field) for example in examples])
            for field, kind in self.kinds.items()
            if kind == "category"
        }
        targets = [example[name] for example in examples]
        made = HistGradientBoostingClassifier if name == "label" else HistGradientBoostingRegressor
        self.model = made(
            max_iter=self.config.trees,
            learning_rate=self.config.learning_rate,
            max_leaf_nodes=self.config.leaves,
            categorical_features=[self.kinds[field] == "category" for field in self.fields],
            early_stopping=False,
            random_state=0,
        ).fit(self._matrix(examples), targets)
        self.labels: tuple[str, ...] = tuple(getattr(head, "labels", ()))

    def predict(self, examples: Sequence[Row]) -> list[Row]:
        """The most probable label with the probability of each, or the number."""
        if not examples:
            return []
        matrix = self._matrix(examples)
        if not hasattr(self.model, "predict_proba"):
            return [{"value": float(value)} for value in self.model.predict(matrix)]
        known = [str(label) for label in self.model.classes_]
        absent = dict.fromkeys(self.labels, 0.0)
        answers: list[Row] = []
        for row in self.model.predict_proba(matrix).tolist():
            probabilities = absent | dict(zip(known, row, strict=True))
            answers.append({"label": max(probabilities, key=probabilities.__getitem__), "probabilities": probabilities})
        return answers

    def _matrix(self, examples: Sequence[Row]) -> npt.NDArray[np.float64]:
        """[examples, fields], NaN for a gap."""
        columns = [self._column(field, [example.get(field) for example in examples]) for field in self.fields]
        return np.array(columns, dtype=np.float64).T

    def _column(self, field: str, values: list[Any]) -> list[float]:
        if self.kinds[field] == "category":
            known = self.levels[field]
            other = known[_OTHER]
            return [np.nan if value is None else float(known.get(str(value), other)) for value in values]
        read = _day if self.kinds[field] == "date" else float
        return [np.nan if value is None else read(value) for value in values]


def _levels(values: Sequence[Any]) -> dict[str, int]:
    """A number for each of the most frequent values, and one for all others."""
    from collections import Counter

    counts = Counter(str(value) for value in values if value is not None)
    frequent = [value for value, _ in counts.most_common(_MOST_LEVELS)]
    return {value: place for place, value in enumerate([_OTHER, *(v for v in frequent if v != _OTHER)])}


def _kind(head: TaskHead, field: str) -> str:
    """How a field of the head's record is read: by its annotation, `None` left out."""
    from datetime import date, datetime

    info = head.takes.model_fields.get(field)
    annotation = info.annotation if info else str
    options = {option for option in get_args(annotation) or (annotation,) if option is not type(None)}
    if options & {float, int} and bool not in options:
        return "number"
    return "date" if options & {date, datetime} else "category"


def _day(value: Any) -> float:
    from datetime import date

    return float(date.fromisoformat(str(value)[:10]).toordinal())
