"""What computes in a classification."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.batch import Batch
from heliostat.component import Row
from heliostat.features import PooledFeatures
from heliostat.heads.decision import Decision
from heliostat.heads.lexical import columns


class ClassificationModule(nn.Module):
    """Dropout and one linear layer from the pooled features to the logits of the classes."""

    def __init__(
        self,
        dim: int,
        labels: Sequence[str],
        label_weights: Sequence[float],
        *,
        dropout: float,
        label_smoothing: float,
        gamma: float,
        decision: Decision | None,
        lexical: float = 0.0,
    ) -> None:
        super().__init__()
        self.labels = tuple(labels)
        self.label_smoothing = label_smoothing
        self.gamma = gamma
        self.lexical = lexical
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(dim, len(labels))
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("label_weights", torch.tensor(label_weights), persistent=False)
        offsets, self.temperature = decision or ([0.0] * len(labels), 1.0)
        self.register_buffer("offsets", torch.tensor(offsets), persistent=False)

    def logits(self, features: PooledFeatures) -> Tensor:
        """[examples, classes], in fp32."""
        return self.linear(self.dropout(features.pooled)).float()  # type: ignore[no-any-return]

    def loss(self, features: PooledFeatures, batch: Batch) -> dict[str, Tensor]:
        """Weighted cross entropy, smoothed or focal, summed over the examples."""
        weights = self.get_buffer("label_weights")
        targets = batch.dense("target")
        each = F.cross_entropy(self.logits(features), targets, reduction="none", label_smoothing=self.label_smoothing)
        if self.gamma:  # without smoothing, `each` is -log of the probability of the right class
            each = (1.0 - (-each).exp()).clamp(min=1e-6) ** self.gamma * each
        return {"loss": (each * weights[targets]).sum()}

    def predict(self, features: PooledFeatures, batch: Batch) -> list[Row]:
        """The most probable label and the probability of each."""
        scores = self.logits(features).log_softmax(-1) + self.get_buffer("offsets")
        if self.lexical:
            scores = scores + self.lexical * margins(batch, len(self.labels))
        probabilities = (scores / self.temperature).softmax(-1).tolist()
        return [
            {
                "label": self.labels[max(range(len(row)), key=row.__getitem__)],
                "probabilities": dict(zip(self.labels, row, strict=True)),
            }
            for row in probabilities
        ]


def margins(batch: Batch, num_classes: int) -> Tensor:
    """What a linear model beside the network says of each example: [examples, classes]."""
    return torch.stack([batch.dense(name) for name in columns(num_classes)], 1)
