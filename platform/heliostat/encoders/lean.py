"""BERT's layers for answers alone: bf16 on a CPU, without what training and padding need of transformers' own.

The same weights and the same order of operations, so that answers are the same up to the rounding of bf16; fewer passes
over memory (gelu and residuals are added as a product is written) and a tenth of the calls. Shapes: T tokens of all
examples, end to end; O numbers of a token.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.encoders.attention import Layout
from heliostat.encoders.products import Leader, Linear, Packed

_MOST_APART = 0.05
"""How far a number may lie from transformers' own, as a share of the greatest: bf16 rounds to 0.004."""


class _Norm(NamedTuple):
    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> Self:
        return cls(norm.weight, norm.bias, norm.eps)

    def __call__(self, states: Tensor) -> Tensor:
        return F.layer_norm(states, self.weight.shape, self.weight, self.bias, self.eps)


class _Layer(NamedTuple):
    joint: Packed
    """Queries, keys and values."""
    mixed: Packed
    mixed_norm: _Norm
    up: Packed
    down: Packed
    down_norm: _Norm


class LeanBert:
    """What a packed BertModel computes. `of` it where it can be had; it holds the model's own tensors."""

    def __init__(self, bert: Any, layers: list[_Layer]) -> None:
        embeddings = bert.embeddings
        self._words = embeddings.word_embeddings.weight
        self._positions = embeddings.position_embeddings.weight
        self._types = embeddings.token_type_embeddings.weight
        self._norm = _Norm.of(embeddings.LayerNorm)
        self._layers = layers
        self._heads = int(bert.config.num_attention_heads)

    @classmethod
    def of(cls, transformer: Any) -> Self | None:
        """None for a model that is no plain BERT, that is not packed, or whose numbers come out otherwise."""
        config = transformer.config
        is_plain = type(transformer).__name__ == "BertModel" and not getattr(config, "is_decoder", False)
        if not is_plain or config.hidden_act != "gelu":
            return None
        layers = [_layer(each) for each in transformer.encoder.layer]
        known = [each for each in layers if each is not None]
        if not known or len(known) < len(layers):
            return None
        lean = cls(transformer, known)
        return lean if lean._is_alike(transformer) else None

    @torch.inference_mode()
    def __call__(self, ids: Tensor, positions: Tensor, layout: Layout, types: Tensor | None = None) -> Tensor:
        """Ids and positions [T] -> the last states [T, O], in bf16."""
        kinds = self._types[0] if types is None else F.embedding(types, self._types)
        read = F.embedding(ids, self._words) + kinds + F.embedding(positions, self._positions)
        states = self._norm(read).to(torch.bfloat16)
        for layer in self._layers:
            attended = self._attended(layer.joint.multiply(states), layout)
            states = layer.mixed_norm(layer.mixed.multiply_onto(attended, states))
            states = layer.down_norm(layer.down.multiply_onto(layer.up.multiply(states, "gelu"), states))
        return states

    def _attended(self, joint: Tensor, layout: Layout) -> Tensor:
        """[T, 3 * O] -> [T, O], one call for each run of equal lengths."""
        width, at, parts = joint.shape[1] // 3, 0, []
        for count, length in layout.groups:
            size = count * length
            part = joint[at : at + size].view(count, length, 3, self._heads, width // self._heads)
            query, key, value = part.permute(2, 0, 3, 1, 4).unbind(0)
            attended = F.scaled_dot_product_attention(query, key, value)
            parts.append(attended.transpose(1, 2).reshape(size, width))
            at += size
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @torch.inference_mode()
    def _is_alike(self, transformer: Any) -> bool:
        """Whether two short examples come out as from the model itself."""
        most = len(self._positions)
        layout = Layout.of((min(11, most), min(7, most)), torch.device("cpu"))
        ids = torch.arange(len(layout.positions)) * 7919 % len(self._words)
        with torch.autocast("cpu", torch.bfloat16):
            asked = {"position_ids": layout.positions.unsqueeze(0), "layout": layout}
            theirs = transformer(input_ids=ids.unsqueeze(0), **asked).last_hidden_state[0].float()
            ours = self(ids, layout.positions, layout).float()
        return bool((ours - theirs).abs().max() <= _MOST_APART * theirs.abs().max())


def _layer(layer: Any) -> _Layer | None:
    attention, up, down = layer.attention, layer.intermediate.dense, layer.output
    query = attention.self.query
    linears = (query, attention.output.dense, up, down.dense)
    if type(query) is not Leader or not all(isinstance(each, Linear) for each in linears):
        return None
    packed = [each.packed for each in linears]
    if any(each is None for each in packed):
        return None
    joint, mixed, rise, fall = packed
    return _Layer(joint, mixed, _Norm.of(attention.output.LayerNorm), rise, fall, _Norm.of(down.LayerNorm))
