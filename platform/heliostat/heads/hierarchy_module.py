"""What computes in a classification in a tree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.batch import Batch
from heliostat.component import Row
from heliostat.features import PooledFeatures
from heliostat.heads.classification_module import margins
from heliostat.heads.decision import Decision
from heliostat.heads.tree import UNKNOWN, Tree

_MOST = 8
"""Classes of a level that an answer lists."""


class HierarchyModule(nn.Module):
    """Dropout and one linear layer to the logits of all classes; a softmax goes over the children of one class."""

    def __init__(
        self,
        dim: int,
        tree: Tree,
        levels: Sequence[str],
        label_weights: Sequence[float],
        *,
        dropout: float,
        decision: Decision | None,
        lexical: float = 0.0,
    ) -> None:
        super().__init__()
        self.tree, self.levels = tree, tuple(levels)
        self.sizes = [len(labels) for labels in tree.labels]
        self.dropout = nn.Dropout(dropout)
        self.lexical = lexical
        self.linear = nn.Linear(dim, sum(self.sizes))
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("label_weights", torch.tensor(label_weights), persistent=False)
        offsets, self.temperature = decision or ([0.0] * self.sizes[0], 1.0)
        self.register_buffer("offsets", torch.tensor(offsets), persistent=False)
        for place, parents in enumerate(tree.parents):
            self.register_buffer(f"parents_{place}", torch.tensor(parents), persistent=False)

    def logits(self, features: PooledFeatures) -> list[Tensor]:
        """Of each level [examples, classes], in fp32."""
        return list(self.linear(self.dropout(features.pooled)).float().split(self.sizes, 1))

    def loss(self, features: PooledFeatures, batch: Batch) -> dict[str, Tensor]:
        """The cross entropy of each level among the children of the right class above, summed over the examples."""
        losses: dict[str, Tensor] = {}
        above: Tensor | None = None
        for place, (level, logits) in enumerate(zip(self.levels, self.logits(features), strict=True)):
            targets = batch.dense(f"target_{level}")
            known = targets != UNKNOWN
            weights = self.get_buffer("label_weights")[targets[known]] if place == 0 else 1.0
            scores = self._among(place, logits, above)[known]
            losses[level] = (F.cross_entropy(scores, targets[known], reduction="none") * weights).sum()
            above = targets
        return losses

    def _among(self, place: int, logits: Tensor, above: Tensor | None) -> Tensor:
        """The logits of a level, those that are no children of `above` at minus infinity: [examples, classes]."""
        if above is None or place == 0:
            return logits
        return logits.masked_fill(self.get_buffer(f"parents_{place}") != above.unsqueeze(1), -torch.inf)

    def predict(self, features: PooledFeatures, batch: Batch) -> list[Row]:
        """The path that takes the most probable child at each class, and how probable its classes are."""
        logits = self.logits(features)
        if self.lexical:
            logits[0] = logits[0] + self.lexical * margins(batch, self.sizes[0])
        levels = self._log_probabilities(logits)
        path, above = [], None
        for place, shares in enumerate(levels):
            above = self._among(place, shares, above).argmax(1)
            path.append(above)
        chosen = torch.stack(path, 1).tolist()
        confidences = torch.stack(
            [shares.gather(1, at[:, None])[:, 0] for shares, at in zip(levels, path, strict=True)]
        )
        labels = self.tree.labels
        rows = zip(chosen, confidences.exp().T.tolist(), levels[0].exp().tolist(), _shown(levels), strict=True)
        return [
            {
                "path": [labels[place][number] for place, number in enumerate(numbers)],
                "confidences": shares,
                "probabilities": dict(zip(labels[0], of_top, strict=True)),
                "choices": [
                    {labels[place][number]: share for number, share in best} for place, best in enumerate(choices)
                ],
            }
            for numbers, shares, of_top, choices in rows
        ]

    def _log_probabilities(self, logits: list[Tensor]) -> list[Tensor]:
        """Of each level [examples, classes]: a class has its parent's and its own among the parent's children."""
        scores = (logits[0].log_softmax(-1) + self.get_buffer("offsets")) / self.temperature
        found = [scores.log_softmax(-1)]
        for place, level in enumerate(logits[1:], 1):
            parents = self.get_buffer(f"parents_{place}")
            index = parents.expand_as(level)
            highest = level.new_full((len(level), self.sizes[place - 1]), -torch.inf)
            highest = highest.scatter_reduce(1, index, level, "amax").gather(1, index)
            sums = level.new_zeros(len(level), self.sizes[place - 1]).index_add_(1, parents, (level - highest).exp())
            found.append(found[-1].gather(1, index) + level - highest - sums.log().gather(1, index))
        return found


def _shown(levels: Sequence[Tensor]) -> list[list[list[tuple[int, float]]]]:
    """For each example and level the most probable classes with their probabilities."""
    best = [shares.topk(min(_MOST, shares.shape[1])) for shares in levels]
    pairs = [(found.indices.tolist(), found.values.exp().tolist()) for found in best]
    examples = range(len(levels[0]))
    return [[list(zip(numbers[row], shares[row], strict=True)) for numbers, shares in pairs] for row in examples]
