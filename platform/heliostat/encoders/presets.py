"""Sizes of text encoders that start from nothing."""

from __future__ import annotations

from typing import Any, NamedTuple


class Preset(NamedTuple):
    """A size: its widths, and the most tokens that its vocabulary may hold."""

    dim: int
    layers: int
    heads: int
    inner: int
    """Width between the two products of a feed-forward layer."""
    vocab_size: int


PRESETS = {
    "tiny": Preset(dim=32, layers=2, heads=2, inner=64, vocab_size=2_000),
    "mini": Preset(dim=256, layers=4, heads=4, inner=1024, vocab_size=8_000),
    "small": Preset(dim=384, layers=6, heads=6, inner=1536, vocab_size=16_000),
    "base": Preset(dim=768, layers=12, heads=12, inner=3072, vocab_size=32_000),
}


def model_config(preset: Preset, *, vocab_size: int, pad_id: int, max_tokens: int, dropout: float) -> dict[str, Any]:
    """The `config.json` of a BERT of this size, as plain values."""
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": vocab_size,
        "hidden_size": preset.dim,
        "num_hidden_layers": preset.layers,
        "num_attention_heads": preset.heads,
        "intermediate_size": preset.inner,
        "hidden_act": "gelu",
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "max_position_embeddings": max_tokens,
        "type_vocab_size": 2,
        "pad_token_id": pad_id,
        "dtype": "float32",
    }
