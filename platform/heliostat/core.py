"""The built-in plugin `core`: encoders, heads, adapters and baselines that belong to no domain."""

from __future__ import annotations

from heliostat.adapters.columns import Columns
from heliostat.baselines.majority import MajorityBaseline
from heliostat.baselines.mean import MeanBaseline
from heliostat.baselines.ridge import RidgeBaseline
from heliostat.baselines.tfidf import TfidfBaseline
from heliostat.baselines.tfidf_labels import TfidfLabelsBaseline
from heliostat.encoders.text import TextEncoder
from heliostat.heads.classification import Classification
from heliostat.heads.multilabel import MultiLabel
from heliostat.heads.regression import Regression
from heliostat.plugin import Registry


def register(registry: Registry) -> None:
    """Register what comes with the platform, by the same door as any plugin."""
    registry.add("columns", Columns)
    registry.add("text", TextEncoder)
    registry.add("classification", Classification)
    registry.add("multilabel", MultiLabel)
    registry.add("regression", Regression)
    registry.add("tfidf", TfidfBaseline)
    registry.add("tfidf_labels", TfidfLabelsBaseline)
    registry.add("ridge", RidgeBaseline)
    registry.add("mean", MeanBaseline)
    registry.add("majority", MajorityBaseline)
