"""From predictions to a report: metrics with intervals, baselines beside them, slices, mistakes."""

from __future__ import annotations

from heliostat.evaluate.evaluation import evaluate
from heliostat.evaluate.intervals import Interval
from heliostat.evaluate.report import Report

__all__ = ["Interval", "Report", "evaluate"]
