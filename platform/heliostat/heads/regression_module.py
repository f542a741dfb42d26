"""What computes in a regression."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.batch import Batch
from heliostat.component import Row
from heliostat.features import PooledFeatures


class RegressionModule(nn.Module):
    """Dropout and one linear layer from the pooled features to a number in standard deviations from the mean."""

    def __init__(self, dim: int, mean: float, std: float, *, dropout: float, delta: float | None) -> None:
        super().__init__()
        self.mean, self.std, self.delta = mean, std, delta
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(dim, 1)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def scaled(self, features: PooledFeatures) -> Tensor:
        """[examples], in fp32."""
        return self.linear(self.dropout(features.pooled)).squeeze(1).float()  # type: ignore[no-any-return]

    def loss(self, features: PooledFeatures, batch: Batch) -> dict[str, Tensor]:
        """Squared error, or Huber's with a `delta`, summed over the examples."""
        targets, scaled = batch.dense("target").float(), self.scaled(features)
        if self.delta is None:
            return {"loss": F.mse_loss(scaled, targets, reduction="sum")}
        return {"loss": F.huber_loss(scaled, targets, reduction="sum", delta=self.delta)}

    def predict(self, features: PooledFeatures, batch: Batch) -> list[Row]:
        """The number in the target's own unit."""
        return [{"value": value * self.std + self.mean} for value in self.scaled(features).tolist()]
