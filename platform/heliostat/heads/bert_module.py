"""What computes when masked words and neighbouring texts are learned together."""

from __future__ import annotations

from torch import Tensor, nn

from heliostat.batch import Batch
from heliostat.component import Row
from heliostat.features import TokenFeatures, Vocabulary
from heliostat.heads.masked_lm_module import MaskedTokens
from heliostat.heads.sentences_module import SentencePair

Sums = dict[str, Tensor]


class BertHeadModule(nn.Module):
    """Masked tokens and a logit a pair, over the same states."""

    def __init__(self, dim: int, vocabulary: Vocabulary, choices: int) -> None:
        super().__init__()
        self.tokens = MaskedTokens(dim, vocabulary, choices)
        self.pair = SentencePair(dim)

    def loss(self, features: TokenFeatures, batch: Batch) -> Sums:
        """The sums of both terms."""
        return {"masked": self.tokens.sums(features, batch).loss, "sentence": self.pair.sums(features, batch).loss}

    def measure(self, features: TokenFeatures, batch: Batch) -> tuple[Sums, Sums]:
        """Both terms, with hits and counts beside them."""
        masked, sentence = self.tokens.sums(features, batch), self.pair.sums(features, batch)
        measures = {**self.tokens.measured(masked, batch), **self.pair.measured(sentence, batch)}
        return {"masked": masked.loss, "sentence": sentence.loss}, measures

    def predict(self, features: TokenFeatures, batch: Batch) -> list[Row]:
        """Each pair with its blanks filled, and whether its second text follows."""
        pairs = zip(self.tokens.fill(features), self.pair.answers(features), strict=True)
        return [{**filled, **answer} for filled, answer in pairs]
