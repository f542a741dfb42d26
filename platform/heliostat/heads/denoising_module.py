"""What computes in denoising."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.batch import Batch, Ragged
from heliostat.component import Row
from heliostat.errors import HeliostatError
from heliostat.features import Decoder, Seq2SeqFeatures, Vocabulary, WritingDecoder
from heliostat.heads.denoising import TARGETS
from heliostat.heads.projection import embedding_of, token_sums

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
        whole = batch.ragged(TARGETS)
        asked = torch.cat([piece[1:] for piece in whole.split()])
        sums = token_sums(*_forced(features, whole), None, asked)
        return {"loss": sums.loss}, {"loss": sums.loss, "hits": sums.hits, "count": torch.tensor(float(len(asked)))}

    def predict(self, features: Seq2SeqFeatures, batch: Batch) -> list[Row]:
        """Each text as it is written again."""
        states, embedding = _forced(features, features.tokens)
        parts = states.split([length - 1 for length in features.tokens.lengths])  # type: ignore[no-untyped-call]
        losses = [
            F.cross_entropy(F.linear(part, embedding).float(), piece[1:], reduction="none")
            for part, piece in zip(parts, features.tokens.split(), strict=True)
        ]
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
        while written.shape[1] <= self.max_new_tokens and not bool(has_ended.all()):
            logits = decoder.logits(Ragged.of(list(written))).view(count, written.shape[1], -1)
            best = logits[:, -1].argmax(-1).masked_fill(has_ended, decoder.end_id)
            has_ended = has_ended | (best == decoder.end_id)
            written = torch.cat([written, best.unsqueeze(1)], 1)
        rows: list[list[int]] = written.tolist()
        return rows


def _decoder(features: Seq2SeqFeatures) -> WritingDecoder:
    if not isinstance(features.decoder, WritingDecoder):
        raise HeliostatError(
            "core.denoising needs a decoder with `hidden` (heliostat.features.WritingDecoder). Take core.seq2seq_text."
        )
    return features.decoder


def _forced(features: Seq2SeqFeatures, whole: Ragged) -> tuple[Tensor, Tensor]:
    """For each token but the last of its text the state that asks for the next one, and the table that answers."""
    given = Ragged.of([piece[:-1] for piece in whole.split()])
    return _decoder(features).hidden(given), embedding_of(features)
