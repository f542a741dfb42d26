"""The projection onto the vocabulary: in pieces it gives what it gives in one, and an embedding must fit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from heliostat.errors import HeliostatError


def test_logits_in_pieces_are_logits_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from heliostat.heads import projection

    torch.manual_seed(3)
    states, table, targets = torch.randn(50, 8), torch.randn(20, 8), torch.randint(0, 20, (50,))
    targets[7] = -100
    grads, sums = [], []
    for limit in (2**28, 4 * 20 * 7):
        monkeypatch.setattr(projection, "LOGIT_BYTES", limit)
        inputs = states.clone().requires_grad_(), table.clone().requires_grad_()
        found = projection.token_sums(*inputs, None, targets)
        found.loss.backward()  # type: ignore[no-untyped-call]
        grads.append([each.grad for each in inputs])
        sums.append(found)
    torch.testing.assert_close(sums[0].loss.detach(), sums[1].loss.detach())
    assert int(sums[0].hits) == int(sums[1].hits)
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_an_embedding_of_another_width_is_refused() -> None:
    from heliostat.features import TokenFeatures
    from heliostat.heads.projection import embedding_of

    features = TokenFeatures(torch.zeros(1, 4), torch.zeros(3, 4), tokens=None, embedding=None)  # type: ignore[arg-type]
    with pytest.raises(HeliostatError, match="another width than its states"):
        embedding_of(features)


def test_a_softmax_over_items_in_pieces_is_that_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from heliostat.heads import ranking_module

    torch.manual_seed(3)
    head: Any = SimpleNamespace(config=SimpleNamespace(label_smoothing=0.1), training=True)
    states, table, targets = torch.randn(50, 8), torch.randn(20, 8), torch.randint(0, 20, (50,))
    found = []
    for limit in (2**28, 0):
        monkeypatch.setattr(ranking_module, "LOGIT_BYTES", limit)
        monkeypatch.setattr(ranking_module, "_LOSS_BYTES", 4 * 20 * 7)
        inputs = states.clone().requires_grad_(), table.clone().requires_grad_()
        loss = ranking_module.RankingModule._whole(head, inputs[0], targets, inputs[1])
        loss.backward()  # type: ignore[no-untyped-call]
        found.append([loss.detach(), *(each.grad for each in inputs)])
    whole = torch.nn.functional.cross_entropy(states @ table.t(), targets, reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(found[0][0], whole)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
