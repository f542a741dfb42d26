"""What computes in a classification of each text of an example."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from heliostat.batch import Batch
from heliostat.component import Row
from heliostat.features import PooledFeatures, SegmentFeatures
from heliostat.heads.segments import TARGETS


class SegmentLabelsModule(nn.Module):
    """The module of a classification, over one vector a text in place of one an example."""

    def __init__(self, each: Any) -> None:
        super().__init__()
        self.each = each

    def loss(self, features: SegmentFeatures, batch: Batch) -> dict[str, Tensor]:
        """The loss of the classification, summed over all texts."""
        targets = Batch(batch.ids, {"target": batch.ragged(TARGETS).values})
        loss: dict[str, Tensor] = self.each.loss(_each(features), targets)
        return loss

    def predict(self, features: SegmentFeatures, batch: Batch) -> list[Row]:
        """The labels of each example's texts in order, and the probabilities of each."""
        answers = iter(self.each.predict(_each(features), batch))
        rows: list[Row] = []
        for count in features.counts:
            texts = [next(answers) for _ in range(count)]
            rows.append(
                {
                    "labels": [text["label"] for text in texts],
                    "probabilities": [text["probabilities"] for text in texts],
                }
            )
        return rows


def _each(features: SegmentFeatures) -> PooledFeatures:
    assert features.segments is not None
    return PooledFeatures(features.segments)
