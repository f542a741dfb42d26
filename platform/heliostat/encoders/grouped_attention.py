"""Attention between examples that stand end to end: the tokens of one text over those of another, or of itself.

Products run over all tokens without padding. For the attention itself examples of similar lengths are padded
together in a few groups, by one selection of rows each way. Shapes: T tokens, B examples of a group, H heads,
L queries and S keys of the longest example in a group, D width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from heliostat.encoders.dropout import draw_kept, growth, masked
from heliostat.shapes import familiar

Lengths = npt.NDArray[np.int64]

_MAX_GROUPS = 6
"""Groups of a batch whose lengths are alike; more of them waste less on padding and cost more calls."""
_WORTH_A_GROUP = 2**15
"""Scores of a head that must be saved for one more group: below it the calls take longer than the padding."""


class Group(NamedTuple):
    """Examples that attend together."""

    batch: int
    """B * H."""
    length: int
    """L."""
    size: int
    """S."""
    mask: Tensor | None  # [B, 1, L or 1, S], what is added to scores; None: every query reads every key


class Pairing(NamedTuple):
    """Which tokens attend to which, for all layers that have the same boundaries.

    Queries, keys and values are rows of width D: `takes` selects the padded rows of each, one group behind another,
    `gives` the rows of the result from those of padded queries (`results` is its inverse), and `returns` the gradient's
    rows of each tensor that came in from those of padded queries, keys and values, in this order.
    """

    groups: tuple[Group, ...]
    heads: int
    sources: tuple[int, int, int]
    """Which of the tensors that come in holds queries, keys and values."""
    takes: tuple[Tensor, Tensor, Tensor]
    results: Tensor  # [sum of B * H * L], the result's row of each padded query
    gives: Tensor  # [T * H]
    returns: tuple[Tensor, ...]
    unasked: Tensor  # the padded queries' rows that are padding

    def parts(self, queries: Tensor, keys: Tensor, values: Tensor) -> Iterator[tuple[Group, Tensor, Tensor, Tensor]]:
        """Of each group the padded queries [B * H, L, D], keys and values [B * H, S, D]."""
        at, other = 0, 0
        for group in self.groups:
            more, others = group.batch * group.length, group.batch * group.size
            here, there = slice(at, at + more), slice(other, other + others)
            asked, read = (group.batch, group.length, -1), (group.batch, group.size, -1)
            yield group, queries[here].view(asked), keys[there].view(read), values[there].view(read)
            at, other = at + more, other + others


def pairing(
    queries: tuple[int, ...],
    keys: tuple[int, ...] | None,
    heads: int,
    device: torch.device,
    *,
    causal: bool = False,
    window: int | None = None,
    is_split: bool = False,
) -> Pairing:
    """The pairing of examples with these counts of queries and keys; keys None: each text over itself.

    A text over itself takes its queries, keys and values from one [T, 3, H, D], else from [T, H, D] and [S, 2, H, D];
    `is_split` says that they come in three tensors. With a window tokens reach others nearer than it.
    """
    lengths = np.asarray(queries, dtype=np.int64)
    others = lengths if keys is None else np.asarray(keys, dtype=np.int64)
    sources = (0, 1, 2) if is_split else (0, 0, 0) if keys is None else (0, 1, 1)
    starts = tuple(np.cumsum(each) - each for each in (lengths, others))
    cut = _cut(lengths, others)
    asked = [_padded(starts[0][rows], lengths[rows]) for rows in cut]
    read = [_padded(starts[1][rows], others[rows]) for rows in cut]
    totals = (int(lengths.sum()), int(others.sum()), int(others.sum()))
    rows, sizes = [], dict.fromkeys(sources, 0)
    for slot, (source, tokens) in enumerate(zip(sources, (asked, read, read), strict=True)):
        parts, part = sources.count(source), sources[:slot].count(source)
        rows.append(_rows(tokens, parts, part, heads))
        sizes[source] = totals[slot] * parts * heads
    ends = np.cumsum([0, *map(len, rows)])
    returns = []
    for source, size in sizes.items():
        places = np.zeros(size, dtype=np.int64)
        for slot in (slot for slot in range(3) if sources[slot] == source):
            _invert(rows[slot], places, ends[slot])
        returns.append(places)
    asked_rows, gives = _rows(asked, 1, 0, heads), np.zeros(totals[0] * heads, dtype=np.int64)
    _invert(asked_rows, gives, 0)
    groups = tuple(
        Group(query.shape[0] * heads, query.shape[1], key.shape[1], _mask(query, key, causal, window, device))
        for query, key in zip(asked, read, strict=True)
    )

    def tensor(values: Lengths) -> Tensor:
        return torch.from_numpy(values).to(device)

    takes = tensor(np.maximum(rows[0], 0)), tensor(np.maximum(rows[1], 0)), tensor(np.maximum(rows[2], 0))
    back = tuple(map(tensor, returns))
    results, unasked = tensor(np.maximum(asked_rows, 0)), tensor(np.flatnonzero(asked_rows < 0))
    return Pairing(groups, heads, sources, takes, results, tensor(gives), back, unasked)


def _mask(query: Lengths, key: Lengths, causal: bool, window: int | None, device: torch.device) -> Tensor | None:
    """What is added to the scores of padded queries [B, L] over padded keys [B, S]: [B, 1, L or 1, S]."""
    hidden = (key < 0)[:, None, None, :]
    distance = np.arange(query.shape[1])[:, None] - np.arange(key.shape[1])[None, :]
    if causal:
        hidden = hidden | (distance < 0)
    if window is not None:
        hidden = hidden | (abs(distance) >= window)
    if not hidden.any():
        return None
    # Not minus infinity: a text of no token would have nothing to attend to, and its softmax no value.
    return torch.from_numpy(np.where(hidden, np.float32(-1e4), np.float32(0.0))).to(device)


def _cut(lengths: Lengths, others: Lengths) -> list[Lengths]:
    """Rows in groups of similar lengths, longest first, with about equal counts of tokens.

    A group ends early where one text is far longer than those behind it: all would be padded to its length.
    """
    order = np.lexsort((others, lengths))[::-1]
    used = np.cumsum((lengths + others)[order])
    bounds = np.searchsorted(used, used[-1] * np.arange(1, _MAX_GROUPS) / _MAX_GROUPS) if len(order) else []
    found = []
    for part in np.split(order, bounds):
        while len(part):
            like = int((2 * lengths[part] >= lengths[part[0]]).sum())  # of the others more than half would be padding
            rest = part[like:]
            saved = len(rest) * (_room(part, lengths, others) - _room(rest, lengths, others))
            if saved < _WORTH_A_GROUP:
                like, rest = len(part), part[:0]
            found.append(part[:like])
            part = rest
    return found


def _room(rows: Lengths, lengths: Lengths, others: Lengths) -> int:
    """Scores of each example of a group, padding included."""
    return familiar(int(lengths[rows].max(initial=1))) * familiar(int(others[rows].max(initial=1)))


def _padded(starts: Lengths, lengths: Lengths) -> Lengths:
    """The number of each token, -1 where there is none: [B, longest or a little more]."""
    places = np.arange(familiar(max(1, int(lengths.max(initial=1)))))
    return np.where(places < lengths[:, None], starts[:, None] + places, -1)


def _rows(tokens: list[Lengths], parts: int, part: int, heads: int) -> Lengths:
    """Rows of [T * parts * H, D] for the padded tokens [B, L] of each group: [sum of B * H * L], -1 where none is."""
    numbers = [each[:, None, :] * (parts * heads) + part * heads + np.arange(heads)[None, :, None] for each in tokens]
    filled = (np.where(each[:, None, :] < 0, -1, rows).ravel() for each, rows in zip(tokens, numbers, strict=True))
    return np.concatenate([np.zeros(0, dtype=np.int64), *filled])


def _invert(rows: Lengths, places: Lengths, start: int) -> None:
    """Write into `places` where each row stands among the padded ones, counted from `start`."""
    real = np.flatnonzero(rows >= 0)
    places[rows[real]] = start + real


def attend(
    sources: tuple[Tensor, ...], pairing: Pairing, *, dropout: float = 0.0, scale: float | None = None
) -> Tensor:
    """[T, H * D], from the tensors that the pairing names: one [T, 3 * H * D], or queries apart from [S, 2 * H * D], or
    queries, keys and values.

    Scores are multiplied by `scale`, by default the inverse root of D.
    """
    device = sources[0].device.type
    if torch.is_autocast_enabled(device):
        sources = tuple(source.to(torch.get_autocast_dtype(device)) for source in sources)
    attended: Tensor = _Attend.apply(pairing, dropout, scale, *(source.contiguous() for source in sources))  # type: ignore[no-untyped-call]
    return attended


class _Attend(torch.autograd.Function):
    """Attention with a backward of its own: what it keeps are padded rows and weights, what it moves rows of a head."""

    @staticmethod
    def forward(ctx: Any, pairing: Pairing, dropout: float, scale: float | None, *sources: Tensor) -> Tensor:
        width = sources[0].numel() // max(1, pairing.returns[0].shape[0])
        ctx.scale = width**-0.5 if scale is None else scale
        query, key, value = (
            sources[source].view(-1, width).index_select(0, take)
            for source, take in zip(pairing.sources, pairing.takes, strict=True)
        )
        out = torch.empty_like(query)
        results = (part[1] for part in pairing.parts(out, key, value))
        ctx.growth = growth(dropout) if dropout else 1.0
        query.mul_(ctx.scale)
        if dropout:  # what is left of the weights should grow; there are fewer values than weights
            value.mul_(ctx.growth)
        kept = []
        for (group, q, k, v), result in zip(pairing.parts(query, key, value), results, strict=True):
            weights = _scores(q, k, group).softmax(-1)
            mask = draw_kept(weights.shape, dropout, weights.dtype) if dropout else None
            left = weights if mask is None else masked(weights, mask)
            torch.bmm(left, v, out=result)
            kept += [weights] if mask is None else [weights, left, mask]
        ctx.save_for_backward(query, key, value, *kept)
        ctx.pairing, ctx.drops = pairing, dropout > 0.0
        ctx.shapes = [source.shape for source in sources]
        return out.index_select(0, pairing.gives).view(-1, pairing.heads * width)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        pairing, kept = ctx.pairing, iter(kept)
        flowing = grads[0].contiguous().view(-1, query.shape[1]).index_select(0, pairing.results)
        flowing.index_fill_(0, pairing.unasked, 0.0)
        gradients = query.new_empty(len(query) + len(key) + len(value), query.shape[1])
        to_query, to_key, to_value = gradients.split([len(query), len(key), len(value)])
        read, written = pairing.parts(query, key, value), pairing.parts(to_query, to_key, to_value)
        flows = (part[1] for part in pairing.parts(flowing, key, value))
        for (_, q, k, v), (_, into_q, into_k, into_v), flow in zip(read, written, flows, strict=True):
            weights = next(kept)
            left, mask = (next(kept), next(kept)) if ctx.drops else (weights, None)
            torch.bmm(left.transpose(1, 2), flow, out=into_v)
            to_weights = torch.bmm(flow, v.transpose(1, 2))
            if mask is not None:
                masked(to_weights, mask, out=to_weights)
            to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
            torch.bmm(to_scores, k, out=into_q)
            torch.bmm(to_scores.transpose(1, 2), q, out=into_k)
        to_query.mul_(ctx.scale)
        if ctx.drops:
            to_value.mul_(ctx.growth)
        backs = zip(pairing.returns, ctx.shapes, strict=True)
        return None, None, None, *(gradients.index_select(0, back).view(shape) for back, shape in backs)


def _scores(query: Tensor, key: Tensor, group: Group) -> Tensor:
    """[B * H, L, S]."""
    scores = torch.bmm(query, key.transpose(1, 2))
    if group.mask is not None:
        mask = group.mask.to(scores.dtype)
        scores.view(len(mask), -1, group.length, group.size).add_(mask)
    return scores
