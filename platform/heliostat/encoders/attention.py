"""Attention over examples that stand end to end, through transformers' own attention interface.

Importing this module registers it under the name UNPADDED; a model built with that attention takes ids as [1, tokens],
positions that start anew with each example, and the keyword `layout`. Shapes: T tokens, H heads, D width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from heliostat.encoders.grouped_attention import Pairing, attend, pairing

UNPADDED = "heliostat_unpadded"
"""What transformers calls this attention."""


@dataclass(frozen=True)
class Layout:
    """How a batch stands while a model computes: the examples by falling length, end to end.

    Equal lengths then stand together, so that one call attends to all of them and taking them apart copies nothing.
    """

    groups: tuple[tuple[int, int], ...]
    """(examples, length) of each run of equal lengths."""
    starts: Tensor  # [examples + 1], int32
    positions: Tensor  # [T], int64, from 0 within each example
    places: Tensor | None  # [T], where each token stands in the batch; None: the batch stands like this already
    back: Tensor | None  # [T], the inverse of `places`
    lengths: tuple[int, ...] = ()
    """Of the examples, in this order."""
    pairings: dict[tuple[int, bool, int | None, bool], Pairing] = field(default_factory=dict)
    """By heads, causality, window and where it reads from: layers of a kind share one."""

    @classmethod
    def of(cls, lengths: tuple[int, ...], device: torch.device) -> Self:
        """The layout of a batch whose examples have these lengths."""
        given = np.asarray(lengths, dtype=np.int64)
        order = np.argsort(-given, kind="stable")
        ordered = given[order]
        starts = np.concatenate([[0], np.cumsum(ordered)])
        positions = np.arange(starts[-1]) - np.repeat(starts[:-1], ordered)
        runs = ((length, len(list(run))) for length, run in groupby(ordered.tolist()))
        groups = tuple((count, length) for length, count in runs)
        places = back = None
        if not np.array_equal(order, np.arange(len(order))):
            where = np.repeat((np.cumsum(given) - given)[order], ordered) + positions
            places, back = torch.from_numpy(where).to(device), torch.from_numpy(np.argsort(where)).to(device)
        return cls(
            groups,
            torch.from_numpy(starts.astype(np.int32)).to(device),
            torch.from_numpy(positions).to(device),
            places,
            back,
            tuple(ordered.tolist()),
        )

    def lay(self, values: Tensor) -> Tensor:
        """From the order of the batch to this one: [T, ...] -> [T, ...]."""
        return values if self.places is None else values.index_select(0, self.places)

    def pairing(self, heads: int, device: torch.device, *, causal: bool, window: int | None, is_split: bool) -> Pairing:
        """Which tokens attend to which, for queries, keys and values in one tensor or in three."""
        kind = (heads, causal, window, is_split)
        if kind not in self.pairings:
            self.pairings[kind] = pairing(
                self.lengths, None, heads, device, causal=causal, window=window, is_split=is_split
            )
        return self.pairings[kind]

    def restore(self, values: Tensor) -> Tensor:
        """From this order to that of the batch: [T, ...] -> [T, ...]."""
        return values if self.back is None else values.index_select(0, self.back)


class _Call(NamedTuple):
    """What one layer asks of its attention."""

    dropout: float
    scale: float | None
    window: int | None
    """Tokens reach others nearer than this; None: all of their example."""
    causal: bool


def unpadded_attention(
    module: nn.Module,
    query: Tensor,  # [1, H, T, D]
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within each example: [1, T, H, D], and no weights. The signature is that which transformers calls."""
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    longest = max(length for _, length in layout.groups)
    window = sliding_window if sliding_window is not None and sliding_window < longest else None
    call = _Call(dropout, scaling, window, causal)
    q, k, v = (states.squeeze(0).transpose(0, 1) for states in (query, key, value))  # the gradient of [0] is a copy
    if query.is_cuda:
        road = _kernel if _kernel_fits(q, call) else _jagged if window is None else _grouped
    else:
        road = _padded if query.requires_grad and (longest <= _SHORT or dropout > 0.0) else _grouped
    return road(q, k, v, layout, call).unsqueeze(0), None


_SHORT = 1024
"""Tokens up to which the weights of an example, kept for the backward pass, are no burden on memory."""


def _padded(query: Tensor, key: Tensor, value: Tensor, layout: Layout, call: _Call) -> Tensor:
    """A few calls for groups of similar lengths: [T, H, D] -> [T, H, D]. For training on CPUs.

    There the backward pass of torch's fused attention takes three times as long in bf16 as in fp32 (2.13), and with
    dropout it is not fused at all.
    """
    heads, joint = query.shape[1], _joint(query, key, value)
    if key.shape[1] != heads:
        key, value = (states.repeat_interleave(heads // key.shape[1], 1) for states in (key, value))
    sources = (query, key, value) if joint is None else (joint,)
    pairs = layout.pairing(heads, query.device, causal=call.causal, window=call.window, is_split=joint is None)
    return attend(sources, pairs, dropout=call.dropout, scale=call.scale).view(query.shape)


def _joint(query: Tensor, key: Tensor, value: Tensor) -> Tensor | None:
    """What queries, keys and values [T, H, D] are views of, where that is one [..., 3 * H * D] and nothing else.

    Its gradient then comes in one piece.
    """
    base, width = query._base, query.shape[1] * query.shape[2]
    if base is None or not (base.requires_grad and base.is_contiguous()):
        return None
    if base.shape[-1] != 3 * width or base.numel() != 3 * query.numel():
        return None
    views = [(width * place, (3 * width, query.shape[2], 1)) for place in range(3)]
    found = [(each.storage_offset() - base.storage_offset(), each.stride()) for each in (query, key, value)]
    return base if found == views and key._base is base and value._base is base else None


def _grouped(query: Tensor, key: Tensor, value: Tensor, layout: Layout, call: _Call) -> Tensor:
    """One call for each run of equal lengths: [T, H, D] -> [T, H, D]. For answers on CPUs, and long examples there."""
    if query.requires_grad and query.dtype is torch.bfloat16 and not query.is_cuda:
        with torch.autocast("cpu", enabled=False):  # its backward pass is the faster one, see `_padded`
            return _grouped(query.float(), key.float(), value.float(), layout, call).to(query.dtype)
    sizes = [count * length for count, length in layout.groups]
    # torch.split, not slices: the gradient of a slice is as large as what it was cut from.
    parts = zip(layout.groups, *(torch.split(states, sizes) for states in (query, key, value)), strict=True)
    return torch.cat([_attended(group, q, k, v, call) for group, q, k, v in parts])


def _attended(group: tuple[int, int], query: Tensor, key: Tensor, value: Tensor, call: _Call) -> Tensor:
    """Attention within examples of one length: [examples * length, H, D] -> the same."""
    q, k, v = (states.view(*group, *states.shape[1:]).transpose(1, 2) for states in (query, key, value))
    band = _band(group[1], call, query.device)
    attended = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=band,
        dropout_p=call.dropout,
        scale=call.scale,
        is_causal=call.causal and band is None,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return attended.transpose(1, 2).flatten(0, 1)


def _band(length: int, call: _Call, device: torch.device) -> Tensor | None:
    """Which tokens reach which, where there is a window: [length, length]."""
    if call.window is None:
        return None
    places = torch.arange(length, device=device)
    distance = places[:, None] - places[None, :]
    reach = distance.abs() < call.window
    return reach & (distance >= 0) if call.causal else reach


def _kernel_fits(query: Tensor, call: _Call) -> bool:
    half = query.dtype in (torch.float16, torch.bfloat16)
    return half and call.dropout == 0.0


def _kernel(query: Tensor, key: Tensor, value: Tensor, layout: Layout, call: _Call) -> Tensor:
    """Torch's flash kernel over boundaries: [T, H, D] -> [T, H, D]. For GPUs in half precision without dropout."""
    from torch.nn.attention.varlen import varlen_attn

    longest = layout.groups[0][1]
    reach = -1 if call.window is None else call.window - 1
    out = varlen_attn(
        query, key, value, layout.starts, layout.starts, longest, longest,
        scale=call.scale, window_size=(reach, 0 if call.causal else reach), enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    assert isinstance(out, Tensor)
    return out


def _jagged(query: Tensor, key: Tensor, value: Tensor, layout: Layout, call: _Call) -> Tensor:
    """SDPA over jagged tensors, which picks a fused kernel: [T, H, D] -> [T, H, D]. For GPUs, dropout and fp32."""
    longest = layout.groups[0][1]
    q, k, v = (
        torch.nested.nested_tensor_from_jagged(states, layout.starts, max_seqlen=longest).transpose(1, 2)
        for states in (query, key, value)
    )
    attended = F.scaled_dot_product_attention(
        q, k, v, dropout_p=call.dropout, scale=call.scale, is_causal=call.causal, enable_gqa=q.shape[1] != k.shape[1]
    )
    return attended.transpose(1, 2).values()


def keep_from_compiler() -> None:
    """Let `torch.compile` pass over this attention, whose shapes are those of a batch: it would compile each anew."""
    passed_over = torch.compiler.disable(unpadded_attention)  # type: ignore[no-untyped-call]
    AttentionInterface.register(UNPADDED, passed_over)


def _no_mask(*_: Any, **__: Any) -> None:
    """No mask: the boundaries travel as `layout`."""


AttentionInterface.register(UNPADDED, unpadded_attention)
AttentionMaskInterface.register(UNPADDED, _no_mask)
