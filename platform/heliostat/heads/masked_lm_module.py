"""What computes in masked language modelling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.batch import Batch
from heliostat.component import Row
from heliostat.features import TokenFeatures, Vocabulary
from heliostat.heads.masking import PLACES, TARGETS, mask_of
from heliostat.heads.projection import TokenSums, Transform, embedding_of, token_sums

Sums = dict[str, Tensor]


class MaskedTokens(nn.Module):
    """A transform and a bias of its own, around the encoder's input embedding."""

    def __init__(self, dim: int, vocabulary: Vocabulary, choices: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.mask_id = mask_of(vocabulary)
        self.choices = min(choices, vocabulary.size)
        self.transform = Transform(dim)
        self.bias = nn.Parameter(torch.zeros(vocabulary.size))

    def logits(self, states: Tensor, features: TokenFeatures) -> Tensor:
        """[places, vocabulary], in fp32."""
        return F.linear(self.transform(states), embedding_of(features), self.bias).float()

    def sums(self, features: TokenFeatures, batch: Batch) -> TokenSums:
        """Loss and hits at the masked places."""
        states = features.states.index_select(0, batch.ragged(PLACES).values)
        return token_sums(self.transform(states), embedding_of(features), self.bias, batch.ragged(TARGETS).values)

    def measured(self, sums: TokenSums, batch: Batch) -> Sums:
        """The sums that `masked_scores` reads."""
        count = torch.tensor(float(len(batch.ragged(TARGETS).values)))
        return {"masked_loss": sums.loss, "masked_hits": sums.hits, "masked_count": count}

    def fill(self, features: TokenFeatures) -> list[Row]:
        """One filled text an example."""
        pieces = zip(features.states.split(list(features.tokens.lengths)), features.tokens.split(), strict=True)  # type: ignore[no-untyped-call]
        return [self._filled(features, states, ids) for states, ids in pieces]

    def _filled(self, features: TokenFeatures, states: Tensor, ids: Tensor) -> Row:
        known = self.logits(states, features).log_softmax(-1)  # [tokens, vocabulary]
        special = torch.tensor(self.vocabulary.special_ids, device=ids.device)
        is_word = ~torch.isin(ids, special)
        own = known.gather(1, ids.unsqueeze(1)).squeeze(1)[is_word]
        blanks = ids.eq(self.mask_id).nonzero().squeeze(1)
        words = known[blanks].index_fill(1, special, -torch.inf)
        best = words.topk(self.choices)
        filled = ids.index_put((blanks,), best.indices[:, 0])
        return {
            "text": self.vocabulary.text(filled.tolist()),
            "blanks": [
                self._named(places, scores)
                for places, scores in zip(best.indices.tolist(), best.values.exp().tolist(), strict=True)
            ],
            "log_likelihood": float(own.mean()) if len(own) else 0.0,
        }

    def _named(self, ids: list[int], probabilities: list[float]) -> dict[str, float]:
        """Tokens by their text; those that differ only in the space before them (`a` and ` a`) add up."""
        named: dict[str, float] = {}
        for place, probability in zip(ids, probabilities, strict=True):
            word = self.vocabulary.text([place])
            named[word] = named.get(word, 0.0) + probability
        return named


class MaskedLMModule(nn.Module):
    """Masked tokens, and nothing else."""

    def __init__(self, dim: int, vocabulary: Vocabulary, choices: int) -> None:
        super().__init__()
        self.tokens = MaskedTokens(dim, vocabulary, choices)

    def loss(self, features: TokenFeatures, batch: Batch) -> Sums:
        """The cross entropy, summed over the masked places."""
        return {"loss": self.tokens.sums(features, batch).loss}

    def measure(self, features: TokenFeatures, batch: Batch) -> tuple[Sums, Sums]:
        """The loss, with hits and count beside it."""
        sums = self.tokens.sums(features, batch)
        return {"loss": sums.loss}, self.tokens.measured(sums, batch)

    def predict(self, features: TokenFeatures, batch: Batch) -> list[Row]:
        """Each text with its blanks filled."""
        return self.tokens.fill(features)
