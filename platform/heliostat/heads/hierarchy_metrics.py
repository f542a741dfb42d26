"""Scores of a classification in a tree, over the columns `target_path` and `path`, each row a list of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from heliostat.heads.classification_metrics import Accuracy, MacroF1, classification_metrics
from heliostat.heads.tree import Tree
from heliostat.plugin import Metric

if TYPE_CHECKING:
    import pandas as pd

Values = npt.NDArray[np.float64]


def hierarchy_metrics(levels: Sequence[str], tree: Tree) -> dict[str, Metric]:
    """Those of a classification for the top level under their plain names, accuracy and macro-F1 of those below."""
    metrics: dict[str, Metric] = {"macro_f1": AtLevel(0, macro=True)}
    found = classification_metrics(tree.labels[0])
    metrics["accuracy"] = AtLevel(0)
    for place, level in enumerate(levels[1:], 1):
        metrics[f"{level}_macro_f1"] = AtLevel(place, macro=True)
        metrics[f"{level}_accuracy"] = AtLevel(place)
    return metrics | {name: OfTop(metric) for name, metric in found.items() if name not in metrics}


class AtLevel:
    """Accuracy or macro-F1 of one level. A class that only the test rows have counts as one that is never found."""

    def __init__(self, place: int, *, macro: bool = False) -> None:
        self.place, self.macro = place, macro

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        view = at_level(table, self.place)
        return self._metric(view)(view)

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample; `counts` says how often each holds each row: [resamples, rows]."""
        view = at_level(table, self.place)
        return self._metric(view).resampled(view, counts)

    def _metric(self, view: pd.DataFrame) -> Accuracy | MacroF1:
        return MacroF1(sorted({*view["target_label"], *view["label"]})) if self.macro else Accuracy()


class OfTop:
    """A metric of a classification, asked about the top level."""

    def __init__(self, metric: Any) -> None:
        self.metric = metric
        self.label: str | None = getattr(metric, "label", None)

    def __call__(self, table: pd.DataFrame) -> float:
        """The score of one table."""
        return float(self.metric(at_level(table, 0)))

    def resampled(self, table: pd.DataFrame, counts: Values) -> Values:
        """The score of each resample: [resamples]."""
        found: Values = self.metric.resampled(at_level(table, 0), counts)
        return found


def at_level(table: pd.DataFrame, place: int) -> pd.DataFrame:
    """The table as a metric of a classification expects it, for one level."""
    return table.assign(
        target_label=[path[place] for path in table["target_path"]], label=[path[place] for path in table["path"]]
    )
