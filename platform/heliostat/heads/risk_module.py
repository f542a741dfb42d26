"""What computes in a risk."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.batch import Batch
from heliostat.component import Row
from heliostat.features import PooledFeatures, TabularFeatures
from heliostat.heads.calibration import Calibration, log_odds

BINS = 2048
"""Bins of the log-odds in which events are counted during training; the report reads every score itself."""
_FURTHEST = 12.0
"""Log-odds at the ends of these bins."""


class RiskModule(nn.Module):
    """Dropout and one linear layer from the pooled features to the log-odds of the event."""

    def __init__(
        self,
        dim: int,
        labels: Sequence[str],
        *,
        share: float,
        threshold: float,
        dropout: float,
        calibration: Calibration | None,
        reasons: bool,
    ) -> None:
        super().__init__()
        self.labels, self.threshold, self.reasons = tuple(labels), threshold, reasons
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(dim, 1)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.constant_(self.linear.bias, float(log_odds(torch.tensor([share]).double().numpy())[0]))
        given = calibration or Calibration(1.0, 0.0)
        self.slope, self.shift = given.slope, given.shift
        self.register_buffer("below", torch.tensor(given.below), persistent=False)
        self.register_buffer("above", torch.tensor(given.above), persistent=False)

    def logits(self, pooled: Tensor) -> Tensor:
        """[examples], in fp32, before calibration."""
        return self.linear(self.dropout(pooled)).float().squeeze(1)  # type: ignore[no-any-return]

    def risks(self, logits: Tensor) -> Tensor:
        """[examples], the calibrated probability of the event."""
        risks = (self.slope * logits + self.shift).sigmoid()
        below, above = self.get_buffer("below"), self.get_buffer("above")
        if len(below) < 2:
            return risks
        right = torch.searchsorted(below, risks).clamp(1, len(below) - 1)
        low, high = below[right - 1], below[right]
        along = ((risks - low) / (high - low).clamp(min=1e-9)).clamp(0.0, 1.0)
        return above[right - 1] + along * (above[right] - above[right - 1])

    def loss(self, features: PooledFeatures, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy, summed over the examples."""
        logits = self.logits(features.pooled)
        return {"loss": F.binary_cross_entropy_with_logits(logits, batch.dense("target"), reduction="sum")}

    def measure(self, features: PooledFeatures, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The loss; and how many events and others lie in each bin of the log-odds, with the summed squared errors."""
        logits, targets = self.logits(features.pooled), batch.dense("target")
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        places = ((logits / _FURTHEST + 1.0) * (BINS / 2)).long().clamp(0, BINS - 1)
        events = torch.bincount(places, targets.double(), BINS)
        others = torch.bincount(places, 1.0 - targets.double(), BINS)
        squares = ((logits.sigmoid() - targets) ** 2).double().sum()
        return {"loss": loss}, {"events": events, "others": others, "squares": squares}

    def predict(self, features: PooledFeatures, batch: Batch) -> list[Row]:
        """The risk, the decision that costs least, and what each field adds."""
        risks = self.risks(self.logits(features.pooled))
        other, event = self.labels
        added = self._added(features, risks)
        return [
            {
                "label": event if risk > self.threshold else other,
                "risk": risk,
                "probabilities": {other: 1.0 - risk, event: risk},
                "reasons": dict(sorted(reasons.items(), key=lambda each: -abs(each[1]))),
            }
            for risk, reasons in zip(risks.tolist(), added, strict=True)
        ]

    def _added(self, features: PooledFeatures, risks: Tensor) -> list[dict[str, float]]:
        """For each example and field the risk less what it would be without that field."""
        if not self.reasons or not isinstance(features, TabularFeatures) or features.without is None:
            return [{} for _ in range(len(risks))]
        moved = [risks - self.risks(self.logits(features.without(name))) for name in features.fields]
        rows = torch.stack(moved, dim=1).tolist()
        return [dict(zip(features.fields, row, strict=True)) for row in rows]
