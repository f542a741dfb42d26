"""What computes in a text encoder: any transformers encoder, over examples that stand end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from heliostat.batch import Batch, Ragged
from heliostat.encoders.attention import UNPADDED, Layout
from heliostat.encoders.products import pack
from heliostat.encoders.text import PAIR_START
from heliostat.errors import HeliostatError
from heliostat.features import CausalFeatures, TokenFeatures
from heliostat.shapes import fill_rows, filled

if TYPE_CHECKING:
    from heliostat.encoders.adapted import Adapted
    from heliostat.encoders.lean import LeanBert


class TextModule(nn.Module):
    """Token ids of a whole batch, end to end -> one vector a token and one an example."""

    def __init__(
        self,
        transformer: Any,
        pooling: Literal["mean", "first", "last"],
        gives: type[TokenFeatures] = TokenFeatures,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.pooling = pooling
        self.gives = gives
        self.adapter: Adapted | None = None
        """What trains beside a frozen transformer; None where the transformer trains."""
        self.lean: LeanBert | None = None
        """What computes in its place where a model only answers, in bf16 on a CPU (`lighten`)."""
        self.first_position = first_position(transformer)
        self.has_types = (getattr(transformer.config, "type_vocab_size", 0) or 0) > 1
        embeddings = getattr(transformer, "embeddings", None)
        if isinstance(embeddings, nn.Module):
            embeddings.register_forward_hook(_as_products)
        pooler = getattr(transformer, "pooler", None)
        if pooler is not None:
            # Kept so that plain transformers finds every weight it knows, frozen because nothing here reads it.
            pooler.requires_grad_(False)

    def forward(self, batch: Batch) -> TokenFeatures:
        """States of all tokens in the order of the batch, and the pooled state of each example."""
        tokens = batch.ragged("input_ids")
        starts = batch.dense(PAIR_START) if PAIR_START in batch else None
        return self.features(self.read(tokens, starts), tokens)

    def features(self, states: Tensor, tokens: Ragged) -> TokenFeatures:
        """What a head gets of the states of all tokens."""
        table = self.transformer.get_input_embeddings().weight
        return self.gives(
            pooled=self._pooled(states, tokens.offsets),
            states=states,
            tokens=tokens,
            embedding=table if table.shape[1] == states.shape[1] else None,
            **self.beside(states, tokens),
        )

    def beside(self, states: Tensor, tokens: Ragged) -> dict[str, Any]:
        """Fields of the features beside those of TokenFeatures."""
        return {"reader": self.read} if issubclass(self.gives, CausalFeatures) else {}

    def read(self, tokens: Ragged, starts: Tensor | None = None) -> Tensor:
        """[tokens, dim], in the order of the batch; `starts` says where the second texts of pairs begin."""
        columns = {"input_ids": tokens.values.long()}
        if starts is not None and self.has_types:
            columns["token_type_ids"] = _types(tokens, starts)
        # Where there is no example one that is dropped again stands in: gradients are then zeros, and not missing.
        layout = Layout.of(filled(tokens.lengths, tokens.values.device), tokens.values.device)
        size = len(layout.positions)
        inputs = {name: layout.lay(fill_rows(values, size)).unsqueeze(0) for name, values in columns.items()}
        return layout.restore(self.states_of(layout, inputs))[: len(tokens.values)]

    def states_of(self, layout: Layout, inputs: dict[str, Tensor]) -> Tensor:
        """[tokens, dim], in the order of the layout."""
        if self.lean is not None and torch.is_autocast_enabled("cpu") and not torch.is_grad_enabled():
            types = inputs.get("token_type_ids")
            types = types if types is None else types[0]
            return self.lean(inputs["input_ids"][0], layout.positions, layout, types).float()
        positions = (layout.positions + self.first_position).unsqueeze(0)
        answer = self.transformer(**inputs, position_ids=positions, layout=layout)
        return answer.last_hidden_state.squeeze(0).float()  # type: ignore[no-any-return]

    def _pooled(self, states: Tensor, offsets: Tensor) -> Tensor:
        """[examples, dim]."""
        if self.pooling != "mean":
            return states.index_select(0, offsets[:-1] if self.pooling == "first" else offsets[1:] - 1)
        lengths = offsets.diff()
        owners = torch.repeat_interleave(
            torch.arange(len(lengths), device=states.device), lengths, output_size=states.shape[0]
        )
        sums = states.new_zeros(len(lengths), states.shape[1]).index_add_(0, owners, states)
        return sums / lengths.unsqueeze(1)


def lighten(model: nn.Module) -> None:
    """Make a model ready that only answers, in bf16: weights laid out, and layers without what training needs."""
    from heliostat.encoders.lean import LeanBert

    pack(model)
    for module in model.modules():
        if isinstance(module, TextModule) and module.adapter is None and module.first_position == 0:
            module.lean = LeanBert.of(module.transformer)


def _as_products(_module: nn.Module, _inputs: Any, states: Tensor) -> Tensor:
    """Under autocast on a CPU what layers add to is in the format of their products, too: it is half to move, and no
    product has to cast what it reads. A GPU's autocast has norms answer in fp32 in any case."""
    if states.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return states.to(torch.get_autocast_dtype("cpu"))
    return states


def _types(tokens: Ragged, starts: Tensor) -> Tensor:
    """0 for the tokens of each first text, 1 for those of the second: [tokens], int64."""
    places = torch.arange(len(tokens.values), device=tokens.values.device)
    begins = tokens.offsets[:-1] + starts
    lengths = tokens.offsets.diff()
    return (places >= torch.repeat_interleave(begins, lengths, output_size=len(places))).long()


def types_of(batch: Batch) -> Tensor:
    """The type of each token, all of them 0 where no example is a pair: [tokens], int64."""
    tokens = batch.ragged("input_ids")
    if PAIR_START not in batch:
        return torch.zeros_like(tokens.values, dtype=torch.int64)
    return _types(tokens, batch.dense(PAIR_START))


def first_position(transformer: nn.Module) -> int:
    """The number of an example's first position: 0, or behind the padding row where models number so (RoBERTa)."""
    for name, module in transformer.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0


@torch.no_grad()
def prove(module: TextModule) -> None:
    """Check that examples laid end to end come out as each does alone in plain transformers.

    Raises HeliostatError for a model whose attention does not go through transformers' attention interface.
    """
    transformer = module.transformer
    training = transformer.training
    transformer.eval()
    try:
        most = (getattr(transformer.config, "max_position_embeddings", None) or 11) - module.first_position
        lengths = (min(11, most), min(7, most))
        size, padding = transformer.config.vocab_size, transformer.config.pad_token_id
        ids = torch.arange(sum(lengths), device=transformer.device) * 7919 % size
        ids = torch.where(ids == padding, (ids + 1) % size, ids) if padding is not None else ids
        together = module.states_of(Layout.of(lengths, ids.device), {"input_ids": ids.unsqueeze(0)})
        transformer.set_attn_implementation("sdpa")
        alone = torch.cat([transformer(part.unsqueeze(0)).last_hidden_state[0] for part in ids.split(lengths)])
        fits = torch.allclose(together, alone, rtol=1e-3, atol=1e-3 * float(alone.abs().max()))
    except (TypeError, ValueError, NotImplementedError):
        fits = False
    finally:
        transformer.set_attn_implementation(UNPADDED)
        transformer.train(training)
    if not fits:
        raise HeliostatError(
            f"{type(transformer).__name__} cannot run without padding: its attention does not go through transformers' "
            "attention interface. Take a BERT, RoBERTa, DistilBERT, ELECTRA or ModernBERT model."
        )


@torch.no_grad()
def prove_causal(module: TextModule) -> None:
    """Check that no token's state depends on what follows it. Raises HeliostatError for a model that looks ahead."""
    training = module.training
    module.eval()
    size, device = module.transformer.config.vocab_size, module.transformer.device
    ids = torch.arange(9, device=device) * 7919 % size
    other = torch.cat([ids[:-1], (ids[-1:] + 1) % size])
    states = [module.states_of(Layout.of((9,), device), {"input_ids": each.unsqueeze(0)})[:-1] for each in (ids, other)]
    module.train(training)
    if not torch.equal(*states):
        raise HeliostatError(
            f"{type(module.transformer).__name__} looks ahead: each token sees those behind it, so there is nothing to "
            "predict. Take a preset of core.causal_text, or a decoder such as GPT-2 or Llama."
        )
