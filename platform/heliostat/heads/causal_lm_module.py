"""What computes in causal language modelling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.batch import Batch, Ragged
from heliostat.component import Row
from heliostat.features import CausalFeatures, Vocabulary
from heliostat.heads.causal_lm import NO_TARGET, TARGETS, followers
from heliostat.heads.projection import TokenSums, embedding_of, token_sums

Sums = dict[str, Tensor]


class CausalLMModule(nn.Module):
    """A projection onto the vocabulary by the encoder's input embedding; it has no weights of its own."""

    def __init__(self, vocabulary: Vocabulary, max_new_tokens: int, max_tokens: int | None) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.max_new_tokens = max_new_tokens
        self.max_tokens = max_tokens

    def sums(self, features: CausalFeatures, batch: Batch) -> TokenSums:
        """Loss and hits at every place that a token follows."""
        return token_sums(features.states, embedding_of(features), None, batch.ragged(TARGETS).values)

    def loss(self, features: CausalFeatures, batch: Batch) -> Sums:
        """The cross entropy, summed over the places that a token follows."""
        return {"loss": self.sums(features, batch).loss}

    def measure(self, features: CausalFeatures, batch: Batch) -> tuple[Sums, Sums]:
        """The loss, with hits and count beside it."""
        sums = self.sums(features, batch)
        count = (batch.ragged(TARGETS).values != NO_TARGET).sum()
        return {"loss": sums.loss}, {"loss": sums.loss, "hits": sums.hits, "count": count}

    def predict(self, features: CausalFeatures, batch: Batch) -> list[Row]:
        """How each text goes on, and how probable it was."""
        embedding = embedding_of(features)
        answers: list[Row] = []
        written = self._write_on(features)
        targets = followers(features.tokens).split()
        states = features.states.split(list(features.tokens.lengths))  # type: ignore[no-untyped-call]
        for ids, mine, wanted in zip(written, states, targets, strict=True):
            losses = F.cross_entropy(
                F.linear(mine, embedding).float(), wanted, reduction="none", ignore_index=NO_TARGET
            )
            count = max(0, len(wanted) - 1)
            likelihood = -float(losses.sum()) / max(1, count)
            answers.append({"text": self.vocabulary.text(ids), "log_likelihood": likelihood, "tokens": count})
        return answers

    def _write_on(self, features: CausalFeatures) -> list[list[int]]:
        """The most probable token after each text, and so on, until a special one ends it: new ids an example.

        An example is computed together with others of its batch, and sees none of them.
        """
        special = set(self.vocabulary.special_ids)
        texts = [_without_end(ids.tolist(), special) for ids in features.tokens.split()]
        new: list[list[int]] = [[] for _ in texts]
        going = [place for place, text in enumerate(texts) if self._has_room(text, 0)]
        while going:
            for place, best in zip(going, self._next(features, [texts[at] + new[at] for at in going]), strict=True):
                new[place].append(best)
            going = [at for at in going if new[at][-1] not in special and self._has_room(texts[at], len(new[at]))]
        return new

    def _has_room(self, text: list[int], written: int) -> bool:
        fits = self.max_tokens is None or len(text) + written < self.max_tokens
        return bool(text) and fits and written < self.max_new_tokens

    def _next(self, features: CausalFeatures, texts: list[list[int]]) -> list[int]:
        assert features.reader is not None, "a causal encoder says how to read on"
        device = features.states.device
        tokens = Ragged.of([torch.tensor(text, device=device) for text in texts])
        last = features.reader(tokens).index_select(0, tokens.offsets[1:] - 1)
        best: list[int] = F.linear(last, embedding_of(features)).float().argmax(-1).tolist()
        return best


def _without_end(ids: list[int], special: set[int]) -> list[int]:
    """The tokens of a text without the special ones behind it, which say that it has ended."""
    end = len(ids)
    while end > 1 and ids[end - 1] in special:
        end -= 1
    return ids[:end]
