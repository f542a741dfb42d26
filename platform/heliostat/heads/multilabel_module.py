"""What computes in a multi-label classification."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.batch import Batch
from heliostat.component import Row
from heliostat.features import PooledFeatures


class MultiLabelModule(nn.Module):
    """Dropout and one linear layer from the pooled features to a logit for each label."""

    def __init__(self, dim: int, labels: Sequence[str], *, dropout: float, threshold: float) -> None:
        super().__init__()
        self.labels, self.threshold = tuple(labels), threshold
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(dim, len(labels))
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def logits(self, features: PooledFeatures) -> Tensor:
        """[examples, labels], in fp32."""
        return self.linear(self.dropout(features.pooled)).float()  # type: ignore[no-any-return]

    def loss(self, features: PooledFeatures, batch: Batch) -> dict[str, Tensor]:
        """Binary cross entropy, averaged over the labels and summed over the examples."""
        targets = batch.ragged("target").stacked()
        each = F.binary_cross_entropy_with_logits(self.logits(features), targets, reduction="none")
        return {"loss": each.mean(1).sum()}

    def predict(self, features: PooledFeatures, batch: Batch) -> list[Row]:
        """The labels whose probability reaches the threshold, and the probability of each."""
        return [
            {
                "labels": [name for name, share in zip(self.labels, row, strict=True) if share >= self.threshold],
                "probabilities": dict(zip(self.labels, row, strict=True)),
            }
            for row in self.logits(features).sigmoid().tolist()
        ]
