"""What computes in a sequence-to-sequence text encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from heliostat.batch import Ragged
from heliostat.encoders.text_module import TextModule
from heliostat.features import Seq2SeqFeatures


class TextDecoder(nn.Module):
    """Layers of self-attention that looks back, attention to the source, and a feed-forward network (norms first)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        dim = config.hidden_size
        self.positions = nn.Embedding(config.max_position_embeddings, dim)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                dim,
                config.num_attention_heads,
                config.intermediate_size,
                config.hidden_dropout_prob,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(dim)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, embedded: Tensor, source: Tensor, is_padding: Tensor) -> Tensor:
        """[examples, length, dim] -> the same; `source` [examples, places, dim], `is_padding` says which are none."""
        length = embedded.shape[1]
        states = embedded + self.positions.weight[:length]
        ahead = torch.ones(length, length, dtype=torch.bool, device=states.device).triu(1)
        for layer in self.layers:
            states = layer(states, source, tgt_mask=ahead, memory_key_padding_mask=is_padding)
        return self.norm(states)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Reader:
    """The decoder over one batch of sources, as `heliostat.plugin.Decoder` says."""

    decoder: TextDecoder
    table: Tensor  # [vocabulary, dim]
    source: Tensor  # [examples, places, dim]
    is_padding: Tensor  # [examples, places]
    start_id: int
    end_id: int

    def logits(self, targets: Ragged) -> Tensor:
        """[target tokens, vocabulary]: padded for the products, and unpadded again."""
        embedded = pad_sequence(list(F.embedding(targets.values, self.table).split(list(targets.lengths))), True)  # type: ignore[no-untyped-call]
        states = self.decoder(embedded, self.source, self.is_padding)
        kept = [row[:length] for row, length in zip(states, targets.lengths, strict=True)]
        return F.linear(torch.cat(kept), self.table)


class Seq2SeqTextModule(TextModule):
    """A text module with a decoder beside it; both share the embedding of the tokens."""

    def __init__(self, transformer: Any, pooling: Literal["mean", "first", "last"], start_id: int, end_id: int) -> None:
        super().__init__(transformer, pooling, Seq2SeqFeatures)
        self.decoder = TextDecoder(transformer.config)
        self.start_id, self.end_id = start_id, end_id

    def beside(self, states: Tensor, tokens: Ragged) -> dict[str, Any]:
        """The decoder over these sources."""
        source = pad_sequence(list(states.split(list(tokens.lengths))), True)  # type: ignore[no-untyped-call]
        lengths = tokens.offsets.diff().unsqueeze(1)
        is_padding = torch.arange(source.shape[1], device=source.device).unsqueeze(0) >= lengths
        table = self.transformer.get_input_embeddings().weight
        return {"decoder": Reader(self.decoder, table, source, is_padding, self.start_id, self.end_id)}
