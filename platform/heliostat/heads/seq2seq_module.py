"""What computes in sequence to sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.batch import Batch, Ragged
from heliostat.component import Row
from heliostat.errors import HeliostatError
from heliostat.features import Seq2SeqFeatures, Vocabulary, WritingDecoder
from heliostat.heads.pieces import Pieces
from heliostat.heads.search import Bounds, beam_search, greedy, greedy_steps
from heliostat.heads.seq2seq import TARGETS
from heliostat.heads.seq2seq_metrics import BLEU_SUMS, Bleu
from heliostat.heads.smoothed import SmoothedSums, smoothed_sums

if TYPE_CHECKING:
    from heliostat.heads.seq2seq import Seq2Seq

Sums = dict[str, Tensor]
Answer = Callable[[str, list[Row]], Row]
"""The row for a text, from the texts that were found, best first."""

_ROOM = 20
"""Tokens that an answer may have beyond twice those of its source: who has found no end by then will find none."""


class Seq2SeqModule(nn.Module):
    """Teacher forcing, and search; it has no weights of its own."""

    def __init__(self, vocabulary: Vocabulary, config: Seq2Seq.Config, max_tokens: int | None, answer: Answer) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.config = config
        self.answer = answer
        self.max_new_tokens = min(config.max_new_tokens, (max_tokens or 2**31) - 1)

    def sums(self, features: Seq2SeqFeatures, batch: Batch) -> SmoothedSums:
        """Loss, likelihood and hits over all tokens that are written."""
        decoder, pieces = _decoder(features), batch.ragged(TARGETS).split()
        given = Ragged.of([F.pad(piece, (1, 0), value=decoder.start_id) for piece in pieces])
        asked = torch.cat([F.pad(piece, (0, 1), value=decoder.end_id) for piece in pieces])
        assert features.embedding is not None, "a decoder shares the input embedding"
        return smoothed_sums(decoder.hidden(given), features.embedding, asked, self.config.label_smoothing)

    def loss(self, features: Seq2SeqFeatures, batch: Batch) -> Sums:
        """The smoothed cross entropy, summed over the tokens that are written."""
        return {"loss": self.sums(features, batch).loss}

    def measure(self, features: Seq2SeqFeatures, batch: Batch) -> tuple[Sums, Sums]:
        """The loss; likelihood, hits and count, and the counts behind BLEU for a share of the batch."""
        found, lengths = self.sums(features, batch), batch.ragged(TARGETS).lengths
        count = torch.tensor(float(sum(lengths) + len(lengths)))
        sums = torch.from_numpy(self._bleu_sums(features, batch))
        measures = {"likelihood": found.likelihood, "hits": found.hits, "count": count, BLEU_SUMS: sums}
        return {"loss": found.loss}, measures

    def _bleu_sums(self, features: Seq2SeqFeatures, batch: Batch) -> np.typing.NDArray[np.float64]:
        """The counts of greedy answers to the examples whose id falls into `written_share`."""
        rows = np.flatnonzero(batch.ids.astype(np.float64) / 2.0**64 < self.config.written_share)
        # Workers write texts of different lengths, so weights that all must gather together cannot serve here.
        if not len(rows) or getattr(features.decoder, "is_sharded", False):
            return np.zeros(10)
        writing, device = _decoder(features).begin(), features.states.device
        writing.keep(torch.from_numpy(rows).to(device))
        answers = greedy(writing, self._bounds(features, rows.tolist()), device)
        pieces = batch.ragged(TARGETS).split()
        texts = [[self.vocabulary.text(ids) for ids in side] for side in (answers, [pieces[r].tolist() for r in rows])]
        sums: np.typing.NDArray[np.float64] = Bleu(self.config.tokenize).counts(*texts).sum(0)
        return sums

    def predict(self, features: Seq2SeqFeatures, batch: Batch) -> list[Row]:
        """The texts that the search finds for each source, best first."""
        bounds = self._bounds(features, list(range(len(features.tokens))))
        settings = self.config
        found = beam_search(
            _decoder(features).begin(),
            bounds,
            features.states.device,
            beams=settings.beams,
            length_penalty=settings.length_penalty,
        )
        texts = [self.vocabulary.text(ids.tolist()) for ids in features.tokens.split()]
        beams = [[{"answer": self.vocabulary.text(each.ids), "score": each.score} for each in row] for row in found]
        return [self.answer(text, row) for text, row in zip(texts, beams, strict=True)]

    def stream(self, features: Seq2SeqFeatures, batch: Batch) -> Iterator[str | Row]:
        """The answer to the only source, written greedily: its pieces, and last the row of a search with one beam."""
        pieces, total, steps = Pieces(self.vocabulary), 0.0, 0
        bounds, writing = self._bounds(features, [0]), _decoder(features).begin()
        for step in greedy_steps(writing, bounds, features.states.device):
            total, steps = total + step.gain, steps + 1
            if step.id != bounds.end_id and (piece := pieces.add(step.id)):
                yield piece
        if rest := pieces.rest():
            yield rest
        text = self.vocabulary.text(features.tokens.split()[0].tolist())
        found = {"answer": self.vocabulary.text(pieces.ids), "score": total / steps**self.config.length_penalty}
        yield self.answer(text, [found])

    def _bounds(self, features: Seq2SeqFeatures, rows: list[int]) -> Bounds:
        decoder, lengths = _decoder(features), features.tokens.lengths
        forbidden = tuple(id for id in self.vocabulary.special_ids if id != decoder.end_id)
        limits = tuple(min(self.max_new_tokens, 2 * lengths[row] + _ROOM) for row in rows)
        return Bounds(decoder.start_id, decoder.end_id, forbidden, limits)


def _decoder(features: Seq2SeqFeatures) -> WritingDecoder:
    if not isinstance(features.decoder, WritingDecoder):
        raise HeliostatError(
            "core.seq2seq needs a decoder with `hidden` and `begin` (heliostat.features.WritingDecoder). "
            "Take core.seq2seq_text."
        )
    return features.decoder
