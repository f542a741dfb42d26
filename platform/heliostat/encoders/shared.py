"""One text encoder for several models that stand on the same weights: one pass reads the texts of all of them.

A product of the base is computed once for all tokens. What adapters add to it, (x A) B, is computed for all models side
by side, with A = [A1 A2 ...], and each token keeps the columns of its own model. Punica and S-LoRA gather the factors
of each token instead, which suits GPUs; a CPU is faster with few wide products. For answers only: nothing here trains.
Shapes: T tokens, I and O numbers that go in and come out, R the ranks of all models together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from heliostat.batch import Batch
from heliostat.encoders.attention import Layout
from heliostat.encoders.pretrained import compared_config
from heliostat.encoders.products import cheapen_products, pack
from heliostat.encoders.targets import UNREAD
from heliostat.encoders.text import PAIR_START
from heliostat.encoders.text_module import TextModule, types_of
from heliostat.errors import CheckpointError
from heliostat.features import CausalFeatures, TokenFeatures
from heliostat.shapes import fill_rows, filled


class Part(NamedTuple):
    """What one of the models is asked in a pass."""

    model: int
    """Its number, in the order in which they joined."""
    batch: Batch


class Owners:
    """Whose token each one is in the pass under way, in the order of its layout."""

    def __init__(self) -> None:
        self.only: int | None = 0
        """The model to which all tokens belong; None where they are of several."""
        self._whose = torch.zeros(0)
        self._masks: dict[tuple[int, ...], Tensor] = {}

    def begin(self, whose: Tensor) -> None:
        """Say whose the tokens are: [T], int64."""
        first = int(whose[0])
        self.only = first if bool((whose == first).all()) else None
        self._whose, self._masks = whose, {}

    def mask(self, columns: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """1 where a column belongs to the model of the token: [T, R]. Layers with the same columns share one."""
        if columns not in self._masks:
            theirs = torch.tensor(columns, device=self._whose.device)
            self._masks[columns] = (self._whose[:, None] == theirs[None, :]).to(dtype)
        return self._masks[columns]


class SharedLinear(nn.Module):
    """A linear layer of the base, and what the adapters of several models add to it."""

    def __init__(self, base_layer: nn.Module, owners: Owners, dtype: torch.dtype) -> None:
        super().__init__()
        self.base_layer = base_layer
        self._owners = owners
        self._dtype = dtype
        self._first = torch.zeros(0)  # [R, I]
        self._second = torch.zeros(0)  # [R, O]
        self._columns: tuple[int, ...] = ()
        self._spans: dict[int, slice] = {}

    def add(self, model: int, first: Tensor, second: Tensor) -> None:
        """Take in the factors of one more model: [r, I] and [O, r]."""
        begin = len(self._columns)
        first, second = first.detach().to(self._dtype), second.detach().T.to(self._dtype)
        self._first = torch.cat([self._first, first]) if self._columns else first.contiguous()
        self._second = torch.cat([self._second, second]) if self._columns else second.contiguous()
        self._columns += (model,) * len(first)
        self._spans[model] = slice(begin, len(self._columns))

    def forward(self, states: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        given: Tensor = self.base_layer(states)
        only = self._owners.only
        if not self._columns or (only is not None and only not in self._spans):
            return given
        rows = states.flatten(0, -2).to(self._dtype)
        span = slice(None) if only is None else self._spans[only]
        narrow = rows @ self._first[span].T
        if only is None:
            narrow.mul_(self._owners.mask(self._columns, self._dtype))
        given.flatten(0, -2).addmm_(narrow, self._second[span])
        return given


class SharedText:
    """A transformer that several models share. Each one `join`s; `read` reads for those that did."""

    def __init__(self, *, is_bf16: bool) -> None:
        self.modules: list[TextModule] = []
        """Those that joined; the transformer of all is the first one's."""
        self._owners = Owners()
        self._layers: dict[str, SharedLinear] = {}
        self._dtype = torch.bfloat16 if is_bf16 else torch.float32
        self._prints: dict[str, str] = {}
        self._config: dict[str, Any] = {}

    def join(self, module: nn.Module) -> JoinedText:
        """Take in a model's encoder, which lets go of its own transformer; what computes in its place.

        Raises CheckpointError, which goes on a sentence begun with the model's name, for one that cannot share.
        """
        if type(module) is not TextModule or issubclass(module.gives, CausalFeatures):
            raise CheckpointError("its encoder is none of core.text, which alone can be shared.")
        factors = _factors(module)
        prints, config = _prints(module.transformer), compared_config(module.transformer.config)
        if not self.modules:
            self._prints, self._config = prints, config
            self._host(module)
        elif odd := sorted(name for name in {*prints, *self._prints} if prints.get(name) != self._prints.get(name)):
            raise CheckpointError(
                f"its base has other weights, as {odd[0]} ({len(odd)} of {len(self._prints)} differ)."
            )
        elif config != self._config:
            raise CheckpointError("its base has the same weights in another configuration.")
        number = len(self.modules)
        for name, pair in factors.items():
            self._layers[name].add(number, *pair)
        self.modules.append(module)
        module.transformer, module.adapter = self.modules[0].transformer, None
        return JoinedText(self, number)

    def _host(self, module: TextModule) -> None:
        """Take over this model's transformer: each linear layer multiplies for all that will join."""
        transformer = module.transformer
        found = {name: layer for name, layer in transformer.named_modules() if _is_linear(name, layer)}
        plain = {name.removesuffix(".base_layer"): _plain(layer) for name, layer in found.items()}
        for place, layer in plain.items():
            transformer.set_submodule(place, layer)
        cheapen_products(transformer)  # anew: with adapters around them queries, keys and values were no trio
        if self._dtype is torch.bfloat16:
            pack(transformer)
        for place, layer in plain.items():
            self._layers[place] = SharedLinear(layer, self._owners, self._dtype)
            transformer.set_submodule(place, self._layers[place])

    def read(self, parts: Sequence[Part]) -> list[TokenFeatures]:
        """The features of each part, from one pass over the tokens of all: what each model alone would give."""
        tokens = [part.batch.ragged("input_ids") for part in parts]
        sizes, device, host = [len(each.values) for each in tokens], tokens[0].values.device, self.modules[0]
        layout = Layout.of(filled([length for each in tokens for length in each.lengths], device), device)
        # What fills belongs to somebody who is there, so that tokens of one model stay that.
        places = [*sizes, len(layout.positions) - sum(sizes)]
        owners = torch.tensor([*(part.model for part in parts), parts[0].model], device=device)
        self._owners.begin(layout.lay(torch.repeat_interleave(owners, torch.tensor(places, device=device))))
        columns = {"input_ids": torch.cat([each.values.long() for each in tokens])}
        if host.has_types and any(PAIR_START in part.batch for part in parts):
            columns["token_type_ids"] = torch.cat([types_of(part.batch) for part in parts])
        laid = {name: layout.lay(fill_rows(values, sum(places))) for name, values in columns.items()}
        states = layout.restore(host.states_of(layout, {name: each.unsqueeze(0) for name, each in laid.items()}))
        read = zip(parts, torch.split(states, places), tokens, strict=False)
        return [self.modules[part.model].features(own, its) for part, own, its in read]


class JoinedText(nn.Module):
    """What computes in the encoder of a model that has joined others."""

    def __init__(self, shared: SharedText, model: int) -> None:
        super().__init__()
        self.shared = shared
        self.model = model

    def forward(self, batch: Batch) -> TokenFeatures:
        """As TextModule."""
        return self.shared.read([Part(self.model, batch)])[0]


def _is_linear(name: str, layer: nn.Module) -> bool:
    """Whether it is one of the base: an adapter's own layers stand beside theirs."""
    parts = name.split(".")
    return isinstance(layer, nn.Linear) and not any(each.startswith("lora_") or each == UNREAD for each in parts)


def _plain(layer: nn.Linear) -> nn.Linear:
    """The same weights in a layer that nothing was made of yet."""
    plain = nn.Linear(1, 1, bias=False, device="meta")
    plain.in_features, plain.out_features = layer.in_features, layer.out_features
    plain.weight, plain.bias = layer.weight, layer.bias
    return plain.train(layer.training)


def _factors(module: TextModule) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer -> the factors [r, I] and [O, r] of what the model's adapter adds to it. Raises CheckpointError."""
    if module.adapter is None:
        return {}
    try:
        return module.adapter.factors()
    except ValueError as error:
        raise CheckpointError(str(error)) from None


def _prints(transformer: Any) -> dict[str, str]:
    """The hash of each weight of the base, by the name that it has in the plain transformer."""
    found = {}
    for name, tensor in transformer.named_parameters():
        if not any(each.startswith(("lora_", "ranknum")) or each == UNREAD for each in name.split(".")):
            plain = tensor.detach().cpu().contiguous().view(torch.uint8).numpy()
            found[name.replace(".base_layer.", ".")] = hashlib.sha256(plain).hexdigest()
    return found
