"""What computes in a ranking."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.batch import Batch, Ragged
from heliostat.component import Row
from heliostat.features import FeatureSpec, ItemFeatures
from heliostat.heads.item_relations import Relations
from heliostat.heads.projection import LOGIT_BYTES, again, embedding_of
from heliostat.heads.ranking import NEGATIVES, NEXT, TARGETS, UNKNOWN

Sums = dict[str, Tensor]

_LOSS_BYTES = 2**23
"""Memory of the logits of one piece of the loss: what fits a core's cache takes half the time of all at once."""
_CHUNK_BYTES = 2**27
"""Memory of the scores of histories that are ranked at once."""


class RankingModule(nn.Module):
    """A score for every item of the catalogue: the product of a state and the item's vector. It has no weights."""

    def __init__(self, config: Any, spec: FeatureSpec, relations: Relations) -> None:
        super().__init__()
        assert spec.vocabulary is not None
        self.config, self.relations = config, relations
        self.catalogue: Any = spec.vocabulary
        self.num_warm: int = getattr(spec.vocabulary, "num_warm", spec.vocabulary.size - 1)
        self.has_linear = bool(relations.linear)
        if self.has_linear:
            self.register_buffer("linear", self._linear(), persistent=False)

    def _linear(self) -> Tensor:
        """The linear weights by the encoder's numbers, of items that somebody took: [num_warm + 1, num_warm + 1]."""
        held = self.relations.linear
        numbers = np.array([self.catalogue.ids(name)[0] for name in self.relations.names], dtype=np.int64)
        rows = np.repeat(numbers, np.diff(held["starts"]))
        weights = torch.zeros(self.num_warm + 1, self.num_warm + 1)
        weights[torch.from_numpy(rows), torch.from_numpy(numbers[held["places"]])] = torch.from_numpy(held["values"])
        return weights

    def loss(self, features: ItemFeatures, batch: Batch) -> Sums:
        """The cross entropy against the catalogue, or the items drawn, summed over all targets."""
        # Items that nobody has taken yet stand at the end of the table: they are no wrong answers to learn from, but
        # they may be what came after a history.
        table = embedding_of(features)
        warm, targets = table[1 : self.num_warm + 1], batch.ragged(TARGETS).values
        places = (targets > 0).nonzero().squeeze(1)
        states, wanted = features.states[places], targets[places] - 1
        if self.config.negatives and self.training:
            drawn = batch.ragged(NEGATIVES).values.view(len(targets), -1)[places] - 1
            total = self._sampled(states, wanted, drawn, warm)
        else:
            total = self._whole(states, wanted, warm)
        after, followers = _after(features, batch)
        if len(followers):
            total = total + self._whole(after, followers - 1, table[1:])
        return {"loss": total}

    def _whole(self, states: Tensor, targets: Tensor, table: Tensor) -> Tensor:
        """Softmax over a whole table. Where all logits would not fit, those of a piece are had again in backward."""
        smoothing = self.config.label_smoothing if self.training else 0.0
        row = 4 * table.shape[0]
        size = max(1, _LOSS_BYTES // row)
        total = states.new_zeros((), dtype=torch.float32)
        for part, wanted in zip(states.split(size), targets.split(size), strict=True):  # type: ignore[no-untyped-call]
            if len(states) * row > LOGIT_BYTES:
                total = total + again(_softmax, part, wanted, table, smoothing)
            else:
                total = total + _softmax(part, wanted, table, smoothing)
        return total

    def _sampled(self, states: Tensor, targets: Tensor, drawn: Tensor, table: Tensor) -> Tensor:
        """Sampled softmax with even draws; each drawn item stands for its share of the catalogue."""
        # Rows are looked up as an embedding's: the gradient of an index adds up in whatever order threads come.
        right = (states * F.embedding(targets, table)).sum(-1).float()
        wrong = torch.einsum("pd,pnd->pn", states, F.embedding(drawn, table).to(states.dtype)).float()
        wrong = wrong.masked_fill(drawn == targets.unsqueeze(1), -torch.inf)
        stands_for = float(np.log(table.shape[0] / drawn.shape[1]))
        total = torch.logsumexp(torch.cat([right.unsqueeze(1), wrong + stands_for], 1), 1)
        return (total - right).sum()

    def measure(self, features: ItemFeatures, batch: Batch) -> tuple[Sums, Sums]:
        """The loss, and NDCG, recall and reciprocal rank of the first k, summed over histories with a target."""
        losses = self.loss(features, batch)
        sums: Sums = {name: torch.zeros((), dtype=torch.float64) for name in ("ndcg", "recall", "mrr", "count")}
        discounts = 1.0 / torch.log2(torch.arange(self.config.k, dtype=torch.float64) + 2)
        wanted = batch.ragged(NEXT).split()
        for (_, top), targets in zip(self._ranked(features), wanted, strict=True):
            if not len(targets):
                continue
            hits = torch.isin(top, targets).double().cpu()
            places = discounts[: len(top)]
            ideal = discounts[: min(len(targets), self.config.k)].sum()
            sums["ndcg"] += (hits * places).sum() / ideal
            sums["recall"] += hits.sum() / len(targets)
            sums["mrr"] += 1.0 / (1 + int(hits.argmax())) if hits.any() else 0.0
            sums["count"] += 1
        return losses, sums

    def predict(self, features: ItemFeatures, batch: Batch) -> list[Row]:
        """The best items of each history, with their shares, texts and reasons."""
        answers: list[Row] = []
        histories = [piece[1:].tolist() for piece in features.tokens.split()]
        for history, (scores, numbers) in zip(histories, self._ranked(features), strict=True):
            names = [self.catalogue.name(number) for number in numbers.tolist()]
            held = [self.catalogue.name(number) for number in reversed(history)]
            answers.append(
                {
                    "items": names,
                    "scores": scores.tolist(),
                    "texts": [self.catalogue.texts.get(name, "") for name in names],
                    "because": [self.relations.reasons(name, held, self.config.reasons) for name in names],
                }
            )
        return answers

    def _ranked(self, features: ItemFeatures) -> Iterator[tuple[Tensor, Tensor]]:
        """Shares and numbers of the best items of each history, up to k, in fp32. Seen ones are no answer."""
        table, seen = embedding_of(features).float(), _seen(features)
        size = max(1, _CHUNK_BYTES // (4 * table.shape[0]))
        with torch.autocast(table.device.type, enabled=False):
            for first in range(0, len(seen), size):
                rows = range(first, min(first + size, len(seen)))
                scores = F.linear(features.pooled[rows.start : rows.stop].float(), table)
                if self.has_linear:
                    said = self._linear_scores(features.tokens, rows)
                    scores[:, : self.num_warm + 1] += self.config.linear.weight * said
                scores[:, 0] = -torch.inf
                if self.config.exclude_seen:
                    for place, row in enumerate(rows):
                        scores[place].index_fill_(0, seen[row], -torch.inf)
                top = scores.topk(min(self.config.k, table.shape[0] - 1))
                shares = (top.values - scores.logsumexp(1, keepdim=True)).exp()
                answered = top.values.isfinite().sum(1).tolist()
                for count, share, numbers in zip(answered, shares, top.indices, strict=True):
                    yield share[:count], numbers[:count]

    def _linear_scores(self, tokens: Ragged, rows: range) -> Tensor:
        """What the linear term says of each history: [histories, num_warm + 1]. Items with a text alone say nothing."""
        weights = self.get_buffer("linear")
        pieces = tokens.split()[rows.start : rows.stop]
        sums = []
        for piece in pieces:
            faded = self.config.linear.fade ** torch.arange(len(piece) - 1, 0, -1, device=piece.device).sub(1).float()
            sums.append(faded @ weights[piece[1:].masked_fill(piece[1:] > self.num_warm, 0)])
        return torch.stack(sums)


def _seen(features: ItemFeatures) -> list[Tensor]:
    """The numbers of the items of each history, START and older ones included."""
    read = features.tokens.split()
    if features.earlier is None:
        return list(read)
    return [torch.cat(pair) for pair in zip(read, features.earlier.split(), strict=True)]


def _after(features: ItemFeatures, batch: Batch) -> tuple[Tensor, Tensor]:
    """The last state of each history once for each item that followed it, and these items; unknown ones are none."""
    column = batch.ragged(NEXT)
    known = column.values != UNKNOWN
    owners = torch.repeat_interleave(column.offsets.diff().long())[known]
    return F.embedding(owners, features.pooled), column.values[known]


def _softmax(states: Tensor, targets: Tensor, table: Tensor, smoothing: float) -> Tensor:
    logits = F.linear(states, table).float()
    return F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
