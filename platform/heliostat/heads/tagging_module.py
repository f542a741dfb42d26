"""What computes in a tagging."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.batch import Batch
from heliostat.component import Row
from heliostat.features import WORD_STARTS, TokenFeatures


class TaggingModule(nn.Module):
    """Dropout and one linear layer from the state of each word's first token to the logits of the tags."""

    def __init__(self, dim: int, tags: Sequence[str], outside: str, *, dropout: float) -> None:
        super().__init__()
        self.tags = tuple(tags)
        self.outside = outside
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(dim, len(tags))
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def logits(self, features: TokenFeatures, batch: Batch) -> tuple[Tensor, Tensor]:
        """[kept words, tags] in fp32, and which words of the batch were kept: [words], bool."""
        starts = batch.ragged(WORD_STARTS)
        is_kept = starts.values >= 0
        owners = torch.repeat_interleave(
            features.tokens.offsets[:-1].long(), starts.offsets.diff().long(), output_size=len(starts.values)
        )
        states = features.states[(owners + starts.values)[is_kept]]
        return self.linear(self.dropout(states)).float(), is_kept

    def loss(self, features: TokenFeatures, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy, summed over the words that were not cut off."""
        logits, is_kept = self.logits(features, batch)
        return {"loss": F.cross_entropy(logits, batch.ragged("target").values[is_kept], reduction="sum")}

    def predict(self, features: TokenFeatures, batch: Batch) -> list[Row]:
        """The most probable tag of each word."""
        logits, is_kept = self.logits(features, batch)
        best = logits.softmax(-1).max(-1)
        places = torch.full(is_kept.shape, -1, device=is_kept.device)
        chances = torch.zeros(is_kept.shape, device=is_kept.device)
        places[is_kept], chances[is_kept] = best.indices, best.values
        lengths = list(batch.ragged(WORD_STARTS).lengths)
        rows = zip(torch.split(places, lengths), torch.split(chances, lengths), strict=True)
        return [
            {
                "tags": [self.tags[place] if place >= 0 else self.outside for place in row.tolist()],
                "confidences": sure.tolist(),
            }
            for row, sure in rows
        ]
