"""Cross entropy with label smoothing over a tied vocabulary, without a table of all logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from heliostat.shapes import familiar, fill_rows

_ROWS = 512
"""Places whose logits are there at once: they stay in a CPU's cache."""


class SmoothedSums(NamedTuple):
    """What is added up over the places that ask for a token: scalars."""

    loss: Tensor
    """Cross entropy against the smoothed targets, in nats; the one with a gradient."""
    likelihood: Tensor
    """Negative log likelihood of the targets, in nats."""
    hits: Tensor
    """Places whose most probable token is the target."""


def smoothed_sums(states: Tensor, table: Tensor, targets: Tensor, smoothing: float) -> SmoothedSums:
    """The sums of `states` [places, dim] against `targets` [places] by the transposed `table` [vocabulary, dim].

    With smoothing e a target has the probability 1 - e beside e spread evenly over the vocabulary (Szegedy et al.
    2016). Gradients are made in the forward pass, piece by piece, so that no logit is computed or kept twice.
    """
    device = states.device.type
    if torch.is_autocast_enabled(device):
        states, table = (each.to(torch.get_autocast_dtype(device)) for each in (states, table))
    return SmoothedSums(*_Smoothed.apply(states, table, targets, smoothing))  # type: ignore[no-untyped-call]


class _Smoothed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, ...]:
        trains = any(ctx.needs_input_grad)
        to_states = torch.empty_like(states) if trains else None
        to_table = torch.zeros(table.shape, dtype=torch.float32, device=table.device) if trains else None
        hits = torch.zeros((), device=states.device)
        sums = torch.zeros(2, dtype=torch.float64, device=states.device)
        size, middle = table.shape[0], table.float().sum(0).to(table.dtype)
        with torch.autocast(states.device.type, enabled=False):
            for first in range(0, len(targets), _ROWS):
                rows = slice(first, first + _ROWS)
                wanted = targets[rows].unsqueeze(1)
                count = len(wanted)
                piece = fill_rows(states[rows], familiar(count))
                logits = torch.mm(piece, table.t())[:count].float()
                picked, total = logits.gather(1, wanted), torch.mv(piece[:count], middle).float().unsqueeze(1)
                top = logits.amax(1, keepdim=True)
                hits += (picked >= top).sum()
                shares = logits.sub_(top).exp_()
                norm = shares.sum(1, keepdim=True)
                log_norm = norm.log() + top
                likelihood = (log_norm - picked).sum()
                even = (log_norm - total / size).sum()
                loss = (1 - smoothing) * likelihood + smoothing * even
                sums += torch.stack([loss, likelihood]).double()
                if to_states is None or to_table is None:
                    continue
                shares.div_(norm).sub_(smoothing / size)
                shares.scatter_add_(1, wanted, torch.full_like(picked, smoothing - 1.0))
                slopes = fill_rows(shares.to(piece.dtype), len(piece))
                to_states[rows] = torch.mm(slopes, table)[:count]
                to_table += torch.mm(slopes.t(), piece)
        if to_states is not None and to_table is not None:
            ctx.save_for_backward(to_states, to_table.to(table.dtype))
        loss, likelihood = sums.float().unbind(0)
        ctx.mark_non_differentiable(likelihood, hits)
        return loss, likelihood, hits

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        to_states, to_table = ctx.saved_tensors
        return to_states * grads[0].to(to_states.dtype), to_table * grads[0].to(to_table.dtype), None, None
