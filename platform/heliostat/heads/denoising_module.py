"""What computes in denoising."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.batch import Batch, Ragged
from heliostat.component import Row
from heliostat.features import Decoder, Seq2SeqFeatures, Vocabulary
from heliostat.heads.denoising import TARGETS

Sums = dict[str, Tensor]


class DenoisingModule(nn.Module):
    """Teacher forcing over the whole text, and greedy writing; it has no weights of its own."""

    def __init__(self, vocabulary: Vocabulary, max_new_tokens: int, max_tokens: int | None) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.max_new_tokens = min(max_new_tokens, max_tokens or max_new_tokens)

    def loss(self, features: Seq2SeqFeatures, batch: Batch) -> Sums:
        """The cross entropy, summed over the tokens of the whole texts."""
        return self.measure(features, batch)[0]

    def measure(self, features: Seq2SeqFeatures, batch: Batch) -> tuple[Sums, Sums]:
        """The loss, with hits and count beside it."""
        logits, asked = _forced(_decoder(features), batch.ragged(TARGETS))
        loss = F.cross_entropy(logits, asked, reduction="sum")
        hits = (logits.detach().argmax(-1) == asked).sum()
        return {"loss": loss}, {"loss": loss, "hits": hits, "count": torch.tensor(float(len(asked)))}

    def predict(self, features: Seq2SeqFeatures, batch: Batch) -> list[Row]:
        """Each text as it is written again."""
        logits, asked = _forced(_decoder(features), features.tokens)
        losses = F.cross_entropy(logits, asked, reduction="none").split([n - 1 for n in features.tokens.lengths])  # type: ignore[no-untyped-call]
        texts = [self.vocabulary.text(ids) for ids in self._write(_decoder(features), features)]
        return [
            {"text": text, "log_likelihood": -float(each.mean()) if len(each) else 0.0}
            for text, each in zip(texts, losses, strict=True)
        ]

    def _write(self, decoder: Decoder, features: Seq2SeqFeatures) -> list[list[int]]:
        """The most probable token after the start, and so on until the end."""
        count = len(features.tokens)
        written = torch.full((count, 1), decoder.start_id, device=features.states.device)
        has_ended = torch.zeros(count, dtype=torch.bool, device=written.device)
        while written.shape[1] < self.max_new_tokens and not bool(has_ended.all()):
            logits = decoder.logits(Ragged.of(list(written))).view(count, written.shape[1], -1)
            best = logits[:, -1].argmax(-1).masked_fill(has_ended, decoder.end_id)
            has_ended = has_ended | (best == decoder.end_id)
            written = torch.cat([written, best.unsqueeze(1)], 1)
        rows: list[list[int]] = written.tolist()
        return rows


def _decoder(features: Seq2SeqFeatures) -> Decoder:
    assert features.decoder is not None, "an encoder that gives Seq2SeqFeatures owns a decoder"
    return features.decoder


def _forced(decoder: Decoder, whole: Ragged) -> tuple[Tensor, Tensor]:
    """For each token but the last of its text, scores of the next one in fp32, and that next one."""
    pieces = whole.split()
    given = Ragged.of([piece[:-1] for piece in pieces])
    return decoder.logits(given).float(), torch.cat([piece[1:] for piece in pieces])
