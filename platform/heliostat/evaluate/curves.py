"""The curves of a training, read from its `metrics.jsonl`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Curve(NamedTuple):
    """One number of the training by step."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    def smoothed(self) -> Curve:
        """The mean over a window of a twentieth of the curve, centred; the ends have smaller windows."""
        half = max(1, len(self.values) // 40)
        sums = np.cumsum([0.0, *self.values])
        places = np.arange(len(self.values))
        low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(self.values))
        return Curve(self.steps, tuple(((sums[high] - sums[low]) / (high - low)).tolist()))


def read_curves(path: Path) -> dict[str, Curve]:
    """Every number in the rows of `metrics.jsonl`, by name. A step that a restart repeated counts once, as it was last.

    A last line that was cut off is passed over: the report should not fail on what a killed run left.
    """
    found: dict[str, dict[int, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            continue
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)) and math.isfinite(value):
                found.setdefault(name, {})[row["step"]] = float(value)
    return {name: Curve(*map(tuple, zip(*sorted(points.items()), strict=True))) for name, points in found.items()}
