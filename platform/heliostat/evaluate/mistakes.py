"""The wrong predictions that a classifier was surest of: bad labels and blind spots stand at the top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from heliostat.component import Row
from heliostat.evaluate.table import MODEL, Predictions, question
from heliostat.heads.classification import Classification

MAX_MISTAKES = 20
MAX_CHARACTERS = 400
"""Characters of a text that are shown."""


class Mistake(NamedTuple):
    """One confident wrong prediction."""

    id: int
    target: str
    label: str
    confidence: float
    target_probability: float
    """What the model gave to the right class."""
    text: str
    """The record that was asked, shortened; empty for a head whose records are private."""


def mistakes(head: Classification, predictions: Predictions, examples: Sequence[Row]) -> list[Mistake]:
    """The most confident wrong predictions, the worst first."""
    view = predictions.view(MODEL)
    targets, labels = view["target_label"].to_numpy(dtype=object), view["label"].to_numpy(dtype=object)
    probabilities = view[[f"probability_{label}" for label in head.labels]].to_numpy(dtype=np.float64)
    confidence = probabilities.max(1)
    wrong = np.flatnonzero(targets != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MAX_MISTAKES]
    place = {label: index for index, label in enumerate(head.labels)}
    return [
        Mistake(
            id=int(view["id"].iloc[row]),
            target=str(targets[row]),
            label=str(labels[row]),
            confidence=float(confidence[row]),
            target_probability=float(probabilities[row, place[targets[row]]]) if targets[row] in place else 0.0,
            text="" if head.private else shown(question(head, examples[row])),
        )
        for row in worst
    ]


def shown(record: Row) -> str:
    """A record as one short text: its values, with their names where there are several."""
    filled = {name: value for name, value in record.items() if value not in (None, "")}
    text = "\n".join(f"{name}: {value}" if len(filled) > 1 else str(value) for name, value in filled.items())
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS].rstrip()} …"
