"""What computes in a sequence-to-sequence text encoder: an mBART (Liu et al. 2020) over tokens without padding.

The parameters have the names that transformers gives them, so that its MBartForConditionalGeneration reads the
weights. Shapes: T tokens, B examples, L places, H heads, D width of a head, V tokens of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.utils.rnn import pad_sequence

from heliostat.batch import Batch, Ragged
from heliostat.encoders.dropout import dropout
from heliostat.encoders.grouped_attention import attend, pairing
from heliostat.features import Seq2SeqFeatures
from heliostat.shapes import fill_rows, filled

KeysValues = tuple[Tensor, Tensor]

_FIRST = 2
"""mBART numbers positions from 2."""


class Attention(nn.Module):
    """The products around an attention: queries, keys and values in front of it, one behind it."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))

    def own(self, states: Tensor) -> Tensor:
        """Queries, keys and values of the same states by one product: [..., 3 * dim]."""
        return _together(states, self.q_proj, self.k_proj, self.v_proj)

    def source(self, states: Tensor) -> Tensor:
        """Keys and values of the sources: [..., 2 * dim]."""
        return _together(states, self.k_proj, self.v_proj)


def _together(states: Tensor, *products: nn.Linear) -> Tensor:
    weight = torch.cat([product.weight for product in products])
    return F.linear(states, weight, torch.cat([product.bias for product in products]))


def _heads(states: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """[B, L, parts * H * D] -> [B, H, L, D] for each part."""
    split = states.view(*states.shape[:2], parts, heads, -1)
    return split.permute(2, 0, 3, 1, 4).unbind(0)


class Layer(nn.Module):
    """Self-attention, in a decoder attention to the source, and a feed-forward network; norms first."""

    def __init__(self, config: Any, heads: int, inner: int, reads_source: bool) -> None:
        super().__init__()
        dim = config["d_model"]
        self.rate = config["dropout"]
        self.self_attn = Attention(dim, heads)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        if reads_source:
            self.encoder_attn = Attention(dim, heads)
            self.encoder_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, inner), nn.Linear(inner, dim)
        self.final_layer_norm = nn.LayerNorm(dim)

    def forward(
        self,
        states: Tensor,  # [..., dim]
        itself: Callable[[Tensor], Tensor],
        source: Callable[[Attention, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The states after this layer. `itself` attends by queries, keys and values of the texts written or read,
        `source` by queries, with the attention whose keys and values it wants of the sources."""
        own = self.self_attn
        states = states + self._drop(own.out_proj(itself(own.own(self.self_attn_layer_norm(states)))))
        if source is not None:
            across = self.encoder_attn
            query = across.q_proj(self.encoder_attn_layer_norm(states))
            states = states + self._drop(across.out_proj(source(across, query)))
        return states + self._drop(self.fc2(F.relu(self.fc1(self.final_layer_norm(states)))))

    def _drop(self, states: Tensor) -> Tensor:
        return dropout(states, self.rate, self.training)


class Stack(nn.Module):
    """The layers of one side with their positions and norms."""

    def __init__(self, config: Any, side: str) -> None:
        super().__init__()
        dim, size = config["d_model"], (config[f"{side}_attention_heads"], config[f"{side}_ffn_dim"])
        self.rate = config["dropout"]
        self.scale, self.heads = math.sqrt(dim), size[0]
        self.embed_positions = nn.Embedding(config["max_position_embeddings"] + _FIRST, dim)
        self.layernorm_embedding = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(Layer(config, *size, side == "decoder") for _ in range(config[f"{side}_layers"]))
        self.layer_norm = nn.LayerNorm(dim)

    def embed(self, ids: Tensor, positions: Tensor, table: Tensor) -> Tensor:
        """[T] -> [T, dim], in the format of the products."""
        states = F.embedding(ids, table) * self.scale + self.embed_positions(positions + _FIRST)
        if torch.is_autocast_enabled(states.device.type):
            states = states.to(torch.get_autocast_dtype(states.device.type))
        return dropout(self.layernorm_embedding(states), self.rate, self.training)


class Transformer(nn.Module):
    """An encoder and a decoder that share the embedding of the tokens."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        dim = config["d_model"]
        self.shared = nn.Embedding(config["vocab_size"], dim)
        self.encoder, self.decoder = Stack(config, "encoder"), Stack(config, "decoder")
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.shared.weight, std=dim**-0.5)
        for stack in (self.encoder, self.decoder):
            stack.embed_positions.weight.data.copy_(waves(*stack.embed_positions.weight.shape))


def waves(count: int, dim: int) -> Tensor:
    """Sines and cosines of falling frequency (Vaswani et al. 2017), where positions begin to learn: [count, dim]."""
    angles = torch.arange(count)[:, None] * torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


@dataclass
class Reader:
    """The decoder over one batch of sources, as `heliostat.plugin.Decoder` says."""

    transformer: Transformer
    states: Tensor  # [S, dim], of the sources
    lengths: tuple[int, ...]
    start_id: int
    end_id: int

    @property
    def is_sharded(self) -> bool:
        """Whether weights are gathered layer by layer, which all workers must do in step."""
        return isinstance(self.transformer.decoder.layers[0], FSDPModule)

    def hidden(self, targets: Ragged) -> Tensor:
        """States at each place of `targets`, which the transposed embedding turns into scores: [T, dim]."""
        decoder, device = self.transformer.decoder, self.states.device
        heads = decoder.heads
        asked, read = filled(targets.lengths, device), filled(self.lengths, device)
        own = pairing(asked, None, heads, device, causal=True)
        across = pairing(*_evened(asked, read), heads, device)
        sources = fill_rows(self.states, sum(read))
        states = decoder.embed(*_filled(targets, asked), self.transformer.shared.weight)
        for layer in decoder.layers:
            states = layer(
                states,
                lambda parts: attend((parts,), own),
                lambda attention, query: attend((query, attention.source(sources)), across),
            )
        return decoder.layer_norm(states)[: len(targets.values)]  # type: ignore[no-any-return]

    def logits(self, targets: Ragged) -> Tensor:
        """[target tokens, vocabulary]."""
        return F.linear(self.hidden(targets), self.transformer.shared.weight)

    def begin(self) -> Writing:
        """Nothing written yet, one text a source."""
        states = pad_sequence(list(self.states.split(list(self.lengths))), batch_first=True)  # type: ignore[no-untyped-call]
        places = torch.arange(states.shape[1], device=states.device)
        is_padding = places >= torch.tensor(self.lengths, device=states.device)[:, None]
        unread = torch.zeros_like(is_padding, dtype=states.dtype).masked_fill_(is_padding, -1e4)[:, None, None]
        return Writing(self.transformer, states, unread)


@dataclass
class Writing:
    """Texts being written, with what the decoder computed of them so far, so that a token costs one place."""

    transformer: Transformer
    states: Tensor  # [B, S, dim], of the sources
    unread: Tensor  # [B, 1, 1, S]
    sources: list[KeysValues] = field(default_factory=list)  # of each layer, [B, H, S, D]
    written: list[KeysValues] = field(default_factory=list)  # of each layer, [B, H, places so far, D]

    def step(self, tokens: Tensor) -> Tensor:
        """Scores of what follows when each text goes on with its token: [B] -> [B, V]."""
        decoder, table = self.transformer.decoder, self.transformer.shared.weight
        place = self.written[0][0].shape[2] if self.written else 0
        states = decoder.embed(tokens, torch.full_like(tokens, place), table).unsqueeze(1)  # [B, 1, dim]
        for number, layer in enumerate(decoder.layers):
            states = layer(states, partial(self._itself, number, decoder.heads), partial(self._source, number))
        return F.linear(decoder.layer_norm(states).squeeze(1), table)

    def _itself(self, number: int, heads: int, parts: Tensor) -> Tensor:
        query, key, value = _heads(parts, 3, heads)
        if number < len(self.written):
            before = self.written[number]
            key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
            self.written[number] = (key, value)
        else:
            self.written.append((key, value))
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)

    def _source(self, number: int, attention: Attention, query: Tensor) -> Tensor:
        if number == len(self.sources):  # within the layer's forward, where its weights are at hand
            key, value = _heads(attention.source(self.states), 2, attention.heads)
            self.sources.append((key.contiguous(), value.contiguous()))
        (query,) = _heads(query, 1, attention.heads)
        attended = F.scaled_dot_product_attention(query, *self.sources[number], attn_mask=self.unread)
        return attended.transpose(1, 2).flatten(2)

    def keep(self, rows: Tensor) -> None:
        """Go on with these texts, in this order; one may stand several times: [new B]."""
        self.sources = [(key.index_select(0, rows), value.index_select(0, rows)) for key, value in self.sources]
        self.written = [(key.index_select(0, rows), value.index_select(0, rows)) for key, value in self.written]
        self.unread = self.unread.index_select(0, rows)
        self.states = self.states.index_select(0, rows)


class Seq2SeqTextModule(nn.Module):
    """Token ids of a whole batch, end to end -> their states, with the decoder over them."""

    def __init__(self, config: Any, start_id: int, end_id: int) -> None:
        super().__init__()
        self.transformer = Transformer(config)
        self.start_id, self.end_id = start_id, end_id

    def forward(self, batch: Batch) -> Seq2SeqFeatures:
        """States of all tokens in the order of the batch, their mean over each example, and the decoder."""
        tokens = batch.ragged("input_ids")
        encoder, table = self.transformer.encoder, self.transformer.shared.weight
        lengths = filled(tokens.lengths, tokens.values.device)
        own = pairing(lengths, None, encoder.heads, tokens.values.device)
        states = encoder.embed(*_filled(tokens, lengths), table)
        for layer in encoder.layers:
            states = layer(states, lambda parts: attend((parts,), own))
        states = encoder.layer_norm(states)[: len(tokens.values)]
        reader = Reader(self.transformer, states, tokens.lengths, self.start_id, self.end_id)
        return Seq2SeqFeatures(_means(states, tokens.offsets), states, tokens, table, reader)


def _filled(tokens: Ragged, lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Ids and positions (from 0 within each example) of all tokens and of those that fill: [sum of lengths] each."""
    counts = torch.tensor(lengths, device=tokens.values.device)
    starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts, output_size=sum(lengths))
    positions = torch.arange(sum(lengths), device=tokens.values.device) - starts
    return fill_rows(tokens.values.long(), sum(lengths)), positions


def _evened(queries: tuple[int, ...], keys: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Both with as many examples as the one that has more: what fills on one side reads, or is read by, no token."""
    count = max(len(queries), len(keys))
    return queries + (0,) * (count - len(queries)), keys + (0,) * (count - len(keys))


def _means(states: Tensor, offsets: Tensor) -> Tensor:
    """The mean state of each example: [B, dim]."""
    lengths = offsets.diff()
    owners = torch.repeat_interleave(torch.arange(len(lengths), device=states.device), lengths)
    sums = states.new_zeros(len(lengths), states.shape[1]).index_add_(0, owners, states)
    return sums / lengths.unsqueeze(1).clamp(min=1)
