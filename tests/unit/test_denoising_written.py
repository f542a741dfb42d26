"""What a denoising model writes and how it is scored, whatever is held at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from heliostat.batch import Batch, Draws
from heliostat.data.collate import collate
from heliostat.encoders.seq2seq_text import Seq2SeqTextEncoder
from heliostat.heads import projection
from heliostat.heads.denoising import TARGETS, Denoising
from heliostat.model import Model, build_model

TEXTS = [{"text": "one two three four five"}, {"text": "six"}, {"text": "three three one"}]


def parts(**settings: int) -> tuple[Model, Batch]:
    torch.manual_seed(2)
    encoder = Seq2SeqTextEncoder(Seq2SeqTextEncoder.Config(preset="tiny", vocab_size=300, max_tokens=16, dropout=0.0))
    encoder.fit(TEXTS)
    head = Denoising(Denoising.Config(**settings))
    batch = collate(encoder.encode(TEXTS), np.arange(3, dtype=np.uint64))
    return build_model(encoder, head), head.prepare(batch, Draws(1, 0), encoder.spec())


@pytest.mark.parametrize("limit", [1, 2**28])
def test_the_loss_is_that_of_all_logits_at_once(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "LOGIT_BYTES", limit)
    model, batch = parts()
    pieces = batch.ragged(TARGETS).split()
    decoder = model.encoder(batch).decoder
    logits = decoder.logits(batch.ragged(TARGETS)).split([len(piece) for piece in pieces])
    expected = sum(F.cross_entropy(s[:-1], p[1:], reduction="sum") for s, p in zip(logits, pieces, strict=True))
    torch.testing.assert_close(model(batch)["loss"], expected)


def test_as_many_tokens_are_written_as_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for asked, written in ((1, 1), (5, 5), (64, 16)):
        model, batch = parts(max_new_tokens=asked)
        features = model.eval().encoder(batch)
        features.decoder.end_id = -1  # no text ends by itself
        with torch.no_grad():
            assert {len(ids) for ids in model.head._write(features.decoder, features)} == {1 + written}
