"""States -> tokens of the vocabulary by the transposed input embedding (Press and Wolf 2017), at chosen places only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from heliostat.errors import HeliostatError
from heliostat.features import TokenFeatures
from heliostat.shapes import familiar, fill_rows

LOGIT_BYTES = 2**28
"""Memory of the logits that are there at once; what is above it is computed in pieces, and again in backward."""

T = TypeVar("T")


class TokenSums(NamedTuple):
    """What is added up over the places that ask for a token."""

    loss: Tensor
    """Negative log likelihood, in nats: a scalar."""
    hits: Tensor
    """Places whose most probable token is the target: a scalar."""


class Transform(nn.Module):
    """A product, GELU and a norm between a state and the projection, as in BERT."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, states: Tensor) -> Tensor:
        """[places, dim] -> [places, dim]."""
        return self.norm(F.gelu(self.linear(states)))  # type: ignore[no-any-return]


def embedding_of(features: TokenFeatures) -> Tensor:
    """The input embedding: [vocabulary, dim]. Raises HeliostatError for an encoder that has none of its width."""
    if features.embedding is None:
        raise HeliostatError(
            "this encoder's input embedding has another width than its states, so no projection onto the vocabulary "
            "can be tied to it. Take an encoder whose embedding is as wide as its states (BERT, RoBERTa, Llama)."
        )
    return features.embedding


def token_sums(states: Tensor, embedding: Tensor, bias: Tensor | None, targets: Tensor) -> TokenSums:
    """The loss and the hits of `states` [places, dim] against `targets` [places]; torch's -100 is left out."""
    size = max(1, LOGIT_BYTES // (4 * embedding.shape[0]))
    if len(targets) <= size:
        return TokenSums(*_sums(states, embedding, bias, targets))
    parts = [
        again(_sums, part, embedding, bias, wanted)
        for part, wanted in zip(states.split(size), targets.split(size), strict=True)  # type: ignore[no-untyped-call]
    ]
    return TokenSums(torch.stack([part[0] for part in parts]).sum(), torch.stack([part[1] for part in parts]).sum())


def again(function: Callable[..., T], *inputs: Any) -> T:
    """`function` of one piece, whose logits are dropped and computed again in backward."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    result: T = checkpoint(function, *inputs, use_reentrant=False)
    return result


def _sums(states: Tensor, embedding: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    size = familiar(len(states)) if states.device.type == "cpu" else len(states)
    logits = F.linear(fill_rows(states, size), embedding, bias)[: len(states)].float()
    loss = F.cross_entropy(logits, targets, reduction="sum", ignore_index=-100)
    with torch.no_grad():
        hits = (logits.argmax(-1) == targets).sum()
    return loss, hits
