"""What computes in next sentence and sentence order."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.batch import Batch
from heliostat.component import Row
from heliostat.features import TokenFeatures
from heliostat.heads.sentences import FOLLOWS

Sums = dict[str, Tensor]


class PairSums(NamedTuple):
    """What is added up over pairs."""

    loss: Tensor
    hits: Tensor


class SentencePair(nn.Module):
    """One logit a pair from the state of its first token, by a layer with tanh and a linear one, as in BERT."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.linear = nn.Linear(dim, 1)
        for layer in (self.dense, self.linear):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def logits(self, features: TokenFeatures) -> Tensor:
        """[examples], in fp32."""
        first = features.states.index_select(0, features.tokens.offsets[:-1])
        return self.linear(torch.tanh(self.dense(first))).squeeze(1).float()  # type: ignore[no-any-return]

    def sums(self, features: TokenFeatures, batch: Batch) -> PairSums:
        """Loss and hits."""
        logits, follows = self.logits(features), batch.dense(FOLLOWS)
        loss = F.binary_cross_entropy_with_logits(logits, follows, reduction="sum")
        return PairSums(loss, ((logits.detach() > 0) == (follows > 0.5)).sum())

    def measured(self, sums: PairSums, batch: Batch) -> Sums:
        """The sums that `sentence_accuracy` reads."""
        return {"sentence_hits": sums.hits, "sentence_count": torch.tensor(float(len(batch)))}

    def answers(self, features: TokenFeatures) -> list[Row]:
        """One row a pair."""
        probabilities = self.logits(features).sigmoid().tolist()
        return [{"follows": probability > 0.5, "probability": probability} for probability in probabilities]


class SentencesModule(nn.Module):
    """A logit a pair, and nothing else."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pair = SentencePair(dim)

    def loss(self, features: TokenFeatures, batch: Batch) -> Sums:
        """The binary cross entropy, summed over the pairs."""
        return {"loss": self.pair.sums(features, batch).loss}

    def measure(self, features: TokenFeatures, batch: Batch) -> tuple[Sums, Sums]:
        """The loss, with hits and count beside it."""
        sums = self.pair.sums(features, batch)
        return {"loss": sums.loss}, self.pair.measured(sums, batch)

    def predict(self, features: TokenFeatures, batch: Batch) -> list[Row]:
        """Whether each second text follows."""
        return self.pair.answers(features)
