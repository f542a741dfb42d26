"""Attention between examples that stand end to end: the tokens of one text over those of another, or of itself.

Products run over all tokens without padding. For the attention itself examples of similar lengths are padded
together in a few groups, by one selection of rows each way. Shapes: T tokens, B examples of a group, H heads,
L queries and S keys of the longest example in a group, D width of a head.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Lengths = npt.NDArray[np.int64]

_MAX_GROUPS = 6
"""Groups of a batch; more of them waste less on padding and cost more calls."""


class Group(NamedTuple):
    """Examples that attend together. Row numbers are those of [T * parts * H, D]."""

    queries: Tensor  # [B * H * L], the row of each padded query
    keys: Tensor  # [B * H * S], the row of each padded key
    values: Tensor  # [B * H * S]
    is_query: Tensor  # the places among B * H * L that are no padding
    is_key: Tensor
    mask: Tensor  # [B, 1, L, S], what is added to scores
    shape: tuple[int, int, int]  # B * H, L, S


class Pairing(NamedTuple):
    """Which tokens attend to which, for all layers that have the same boundaries."""

    groups: tuple[Group, ...]
    heads: int


def pairing(
    queries: tuple[int, ...], keys: tuple[int, ...] | None, heads: int, device: torch.device, *, causal: bool = False
) -> Pairing:
    """The pairing of examples with these counts of queries and keys; keys None: each text over itself.

    A text over itself takes its queries, keys and values from one [T, 3, H, D], else from [T, H, D] and [S, 2, H, D].
    """
    lengths = np.asarray(queries, dtype=np.int64)
    others = lengths if keys is None else np.asarray(keys, dtype=np.int64)
    starts = tuple(np.cumsum(each) - each for each in (lengths, others))
    groups = []
    for rows in _cut(lengths, others):
        query, key = _padded(starts[0][rows], lengths[rows]), _padded(starts[1][rows], others[rows])
        if keys is None:
            numbers = [_rows(query, 3, part, heads) for part in range(3)]
        else:
            numbers = [_rows(query, 1, 0, heads), _rows(key, 2, 0, heads), _rows(key, 2, 1, heads)]
        groups.append(_group(numbers, _mask(query.shape[1], key, causal), device))
    return Pairing(tuple(groups), heads)


def _group(numbers: list[Lengths], mask: Tensor, device: torch.device) -> Group:
    """The group of padded rows: of queries [B, H, L], keys and values [B, H, S], -1 where there is none."""
    is_real = (np.flatnonzero(each >= 0) for each in numbers[:2])
    rows = (np.maximum(each, 0).ravel() for each in numbers)
    queries, keys, values, is_query, is_key = (torch.from_numpy(each).to(device) for each in (*rows, *is_real))
    count, heads, length = numbers[0].shape
    return Group(queries, keys, values, is_query, is_key, mask.to(device), (count * heads, length, numbers[1].shape[2]))


def _mask(length: int, key: Lengths, causal: bool) -> Tensor:
    """What is added to the scores of `length` queries over padded keys [B, S]: [B, 1, length, S]."""
    hidden = np.broadcast_to((key < 0)[:, None, None, :], (len(key), 1, length, key.shape[1]))
    if causal:
        hidden = hidden | np.triu(np.ones((length, key.shape[1]), dtype=bool), 1)
    # Not minus infinity: a text of no token would have nothing to attend to, and its softmax no value.
    return torch.from_numpy(np.where(hidden, np.float32(-1e4), np.float32(0.0)))


def _cut(lengths: Lengths, others: Lengths) -> list[Lengths]:
    """Rows in groups of similar lengths, longest first, with about equal counts of tokens."""
    order = np.lexsort((others, lengths))[::-1]
    used = np.cumsum((lengths + others)[order])
    bounds = np.searchsorted(used, used[-1] * np.arange(1, _MAX_GROUPS) / _MAX_GROUPS) if len(order) else []
    return [part for part in np.split(order, bounds) if len(part)]


def _padded(starts: Lengths, lengths: Lengths) -> Lengths:
    """The number of each token, -1 where there is none: [B, longest]."""
    places = np.arange(max(1, int(lengths.max(initial=1))))
    return np.where(places < lengths[:, None], starts[:, None] + places, -1)


def _rows(tokens: Lengths, parts: int, part: int, heads: int) -> Lengths:
    """Rows of [T * parts * H, D] for padded tokens [B, L]: [B, H, L], -1 where there is none."""
    rows = tokens[:, None, :] * (parts * heads) + part * heads + np.arange(heads)[None, :, None]
    return np.where(tokens[:, None, :] < 0, -1, rows)


def attend(query: Tensor, source: Tensor, pairing: Pairing) -> Tensor:
    """[T, H * D], for queries [T, H * D] over keys and values [S, 2 * H * D].

    A text over itself: `source` is `query`, [T, 3 * H * D].
    """
    parts = 3 if source is query else 1
    attended: Tensor = _Attend.apply(query.contiguous(), source.contiguous(), pairing, parts)  # type: ignore[no-untyped-call]
    return attended


class _Attend(torch.autograd.Function):
    """Attention with a backward of its own: what it keeps are the weights, what it moves are rows of one head."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, source: Tensor, pairing: Pairing, parts: int) -> Tensor:
        width = query.shape[1] // (parts * pairing.heads)
        own, other = query.view(-1, width), source.view(-1, width)
        out = query.new_zeros(query.shape[0] * pairing.heads, width)
        kept = []
        for group in pairing.groups:
            weights = _weights(own, other, group)
            result = torch.bmm(weights, _take(other, group.values, group.shape[0])).view(-1, width)
            rows = group.queries.index_select(0, group.is_query)
            out.index_copy_(0, _unparted(rows, parts, pairing.heads), result.index_select(0, group.is_query))
            kept.append(weights)
        ctx.save_for_backward(query, source, *kept)
        ctx.pairing, ctx.parts = pairing, parts
        return out.view(query.shape[0], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, source, *kept = ctx.saved_tensors
        pairing, parts = ctx.pairing, ctx.parts
        width = query.shape[1] // (parts * pairing.heads)
        own, other, grad = query.view(-1, width), source.view(-1, width), grads[0].contiguous().view(-1, width)
        to_own = torch.zeros_like(own)
        to_other = to_own if parts == 3 else torch.zeros_like(other)
        for group, weights in zip(pairing.groups, kept, strict=True):
            count, length, _ = group.shape
            rows = group.queries.index_select(0, group.is_query)
            flowing = grad.new_zeros(count * length, width)
            picked = grad.index_select(0, _unparted(rows, parts, pairing.heads))
            flowing = flowing.index_copy_(0, group.is_query, picked).view(count, length, width)
            key, value = (_take(other, each, count) for each in (group.keys, group.values))
            to_value = torch.bmm(weights.transpose(1, 2), flowing)
            to_weights = torch.bmm(flowing, value.transpose(1, 2))
            to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype).mul_(width**-0.5)
            to_query = torch.bmm(to_scores, key)
            to_key = torch.bmm(to_scores.transpose(1, 2), _take(own, group.queries, count))
            _put(to_own, group.queries, group.is_query, to_query)
            _put(to_other, group.keys, group.is_key, to_key)
            _put(to_other, group.values, group.is_key, to_value)
        if parts == 3:
            return to_own.view(query.shape), None, None, None
        return to_own.view(query.shape), to_other.view(source.shape), None, None


def _weights(own: Tensor, other: Tensor, group: Group) -> Tensor:
    """[B * H, L, S]."""
    count, length, size = group.shape
    query, key = _take(own, group.queries, count), _take(other, group.keys, count)
    mask = group.mask.to(own.dtype)
    scores = torch.bmm(query, key.transpose(1, 2)).mul_(own.shape[1] ** -0.5)
    scores.view(len(mask), -1, length, size).add_(mask)
    return scores.softmax(-1)


def _take(values: Tensor, rows: Tensor, count: int) -> Tensor:
    return values.index_select(0, rows).view(count, -1, values.shape[1])


def _put(into: Tensor, rows: Tensor, real: Tensor, values: Tensor) -> None:
    into.index_copy_(0, rows.index_select(0, real), values.reshape(-1, into.shape[1]).index_select(0, real))


def _unparted(rows: Tensor, parts: int, heads: int) -> Tensor:
    """Row numbers in [T * H, D] for those of the first part of [T * parts * H, D]."""
    if parts == 1:
        return rows
    return torch.div(rows, parts * heads, rounding_mode="floor") * heads + rows % (parts * heads)


def dropout(states: Tensor, rate: float, training: bool) -> Tensor:
    """Dropout that draws one random byte a value on CPUs, where torch's takes a fifth of a step.

    The rate is rounded to 1/256.
    """
    if not training or rate == 0.0:
        return states
    if states.is_cuda:
        return F.dropout(states, rate)
    dropped = round(rate * 256)
    words = torch.empty(-(-states.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    kept = words.view(torch.uint8)[: states.numel()].view(states.shape) >= dropped
    result: Tensor = _Dropout.apply(states, kept, 256 / (256 - dropped))  # type: ignore[no-untyped-call]
    return result


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, kept: Tensor, scale: float) -> Tensor:
        mask = kept.to(states.dtype).mul_(scale)
        ctx.save_for_backward(mask)
        return states * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] * ctx.saved_tensors[0], None, None
