"""Sizes of text encoders that start from nothing."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol


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


class SpecialIds(NamedTuple):
    """The ids of the tokens that a model knows by their meaning."""

    pad: int
    begin: int
    end: int


class Architecture(Protocol):
    """The `config.json` of a model of some size, as plain values."""

    def __call__(
        self, preset: Preset, *, vocab_size: int, special_ids: SpecialIds, max_tokens: int, dropout: float | None
    ) -> dict[str, Any]:
        """`dropout` is None where the architecture's own is meant."""
        ...


def bert_config(
    preset: Preset, *, vocab_size: int, special_ids: SpecialIds, max_tokens: int, dropout: float | None
) -> dict[str, Any]:
    """A BERT (Devlin et al. 2019), with dropout 0.1 where nothing else is said."""
    dropout = 0.1 if dropout is None else dropout
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
        "pad_token_id": special_ids.pad,
        "dtype": "float32",
    }


def llama_config(
    preset: Preset, *, vocab_size: int, special_ids: SpecialIds, max_tokens: int, dropout: float | None
) -> dict[str, Any]:
    """A Llama (Touvron et al. 2023): rotary positions, RMS norms, gated layers; no dropout unless it is asked for.

    The gate is a third product, so layers are two thirds as wide for the same number of weights.
    """
    return {
        "architectures": ["LlamaModel"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": preset.dim,
        "num_hidden_layers": preset.layers,
        "num_attention_heads": preset.heads,
        "num_key_value_heads": preset.heads,
        "intermediate_size": -(-preset.inner * 2 // 3 // 16) * 16,
        "hidden_act": "silu",
        "attention_dropout": dropout or 0.0,
        "max_position_embeddings": max_tokens,
        "pad_token_id": special_ids.pad,
        "bos_token_id": special_ids.begin,
        "eos_token_id": special_ids.end,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
