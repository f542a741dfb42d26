"""One text encoder for several models that stand on the same weights: one pass reads the texts of all of them.

A product of the base is computed once for all tokens. What adapters add to it, (x A) B, is computed for all models side
by side, with A = [A1 A2 ...], and each token keeps the columns of its own model; x A comes out of the base's product,
as columns beside it. Punica and S-LoRA gather the factors of each token instead, which suits GPUs; a CPU is faster with
few wide products. For answers only: nothing here trains.
Shapes: T tokens, I and O numbers that go in and come out, R the ranks of all models together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from heliostat.batch import Batch
from heliostat.encoders.attention import Layout
from heliostat.encoders.pretrained import compared_config
from heliostat.encoders.products import cheapen_products, pack, trios
from heliostat.encoders.targets import UNREAD
from heliostat.encoders.text import PAIR_START
from heliostat.encoders.text_module import TextModule, types_of
from heliostat.errors import CheckpointError
from heliostat.features import CausalFeatures, TokenFeatures
from heliostat.shapes import fill_rows, filled

Factors = tuple[Tensor, Tensor]
"""[r, I] and [O, r]: what an adapter adds to the weight of a layer is their product."""
_LINE = 32


class Part(NamedTuple):
    """What one of the models is asked in a pass."""

    model: int
    """Its number, in the order in which they joined."""
    batch: Batch


class Owners:
    """Whose token each one is in the pass under way, in the order of its layout."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        """Of products."""
        self.only: int | None = 0
        """The model to which all tokens belong; None where they are of several."""
        self._whose = torch.zeros(0)
        self._masks: dict[tuple[int, ...], Tensor] = {}

    def begin(self, whose: Tensor) -> None:
        """Say whose the tokens are: [T], int64."""
        first = int(whose[0])
        self.only = first if bool((whose == first).all()) else None
        self._whose, self._masks = whose, {}

    def mask(self, columns: tuple[int, ...]) -> Tensor:
        """1 where a column belongs to the model of the token: [T, R]. Layers with the same columns share one."""
        if columns not in self._masks:
            theirs = torch.tensor(columns, device=self._whose.device)
            self._masks[columns] = (self._whose[:, None] == theirs[None, :]).to(self.dtype)
        return self._masks[columns]


class SharedProduct(nn.Module):
    """Linear layers of the base that read the same states, and what the adapters of several models add to each.

    One product gives what the base gives and, in columns beside it, x A for all adapters: the states are read once.
    """

    def __init__(self, layers: Sequence[nn.Linear], added: Sequence[Mapping[int, Factors]], owners: Owners) -> None:
        super().__init__()
        self._owners = owners
        self._waiting: dict[int, tuple[Tensor, Tensor]] = {}
        device, dtype = layers[0].weight.device, owners.dtype
        self._added = [_Added.of(each, dtype) for each in added]
        weights: list[Tensor] = [layer.weight for layer in layers]
        weights += [first for each in added for first, _ in each.values()]
        rows = sum(map(len, weights))
        # Rows of the result begin where a CPU's vector registers like it.
        weights.append(torch.zeros(-rows % _LINE, layers[0].in_features, device=device))
        biases: list[Tensor] = [
            torch.zeros(layer.out_features, device=device) if layer.bias is None else layer.bias for layer in layers
        ]
        sizes = [layer.out_features for layer in layers]
        self._sizes = [*sizes, *(len(each.columns) for each in self._added)]
        biases.append(torch.zeros(sum(map(len, weights)) - sum(sizes), device=device))
        self.joint = _linear(
            torch.cat([each.detach() for each in weights]), torch.cat([each.detach() for each in biases])
        )
        cheapen_products(self)
        if dtype is torch.bfloat16:
            pack(self)

    def take(self, place: int, states: Tensor) -> Tensor:
        """What a layer gives: [..., I] -> [..., O]. Those of the others wait for them."""
        known, part = self._waiting.pop(place, (None, None))
        if part is not None and known is states:
            return part
        parts = self._computed(states)
        self._waiting = {other: (states, each) for other, each in enumerate(parts) if other > place}
        return parts[place]

    def _computed(self, states: Tensor) -> list[Tensor]:
        wide: Tensor = self.joint(states)
        pieces = torch.split(wide[..., : sum(self._sizes)], self._sizes, -1)
        count = len(self._added)
        for given, narrow, added in zip(pieces[:count], pieces[count:], self._added, strict=True):
            if added.columns:
                added.add(given.flatten(0, -2), narrow.flatten(0, -2), self._owners)
        return list(pieces[:count])


class _Added(NamedTuple):
    """The second factors of the adapters of one layer."""

    columns: tuple[int, ...]
    """The model of each of the R columns."""
    second: Tensor  # [R, O]
    spans: dict[int, slice]

    @classmethod
    def of(cls, factors: Mapping[int, Factors], dtype: torch.dtype) -> _Added:
        columns: list[int] = []
        spans = {}
        for model, (first, _) in factors.items():
            spans[model] = slice(len(columns), len(columns) + len(first))
            columns += [model] * len(first)
        parts = [second.detach().T for _, second in factors.values()]
        return cls(tuple(columns), torch.cat(parts).to(dtype) if parts else torch.zeros(0), spans)

    def add(self, given: Tensor, narrow: Tensor, owners: Owners) -> None:
        """In place: to each token [T, O] what its own model adds, from x A of all models [T, R]."""
        if owners.only is None:
            given.addmm_(narrow.mul_(owners.mask(self.columns)), self.second)
        elif owners.only in self.spans:
            span = self.spans[owners.only]
            given.addmm_(narrow[:, span], self.second[span])


class SharedLinear(nn.Module):
    """A layer of a shared product."""

    def __init__(self, product: SharedProduct, place: int) -> None:
        super().__init__()
        self.product = product
        self.place = place

    def forward(self, states: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        return self.product.take(self.place, states)


class SharedText:
    """A transformer that several models share. Each one `join`s; `read` reads for those that did."""

    def __init__(self, *, is_bf16: bool) -> None:
        self.modules: list[TextModule] = []
        """Those that joined; the transformer of all is the first one's."""
        self._owners = Owners(torch.bfloat16 if is_bf16 else torch.float32)
        self._factors: list[dict[str, Factors]] = []
        self._prints: dict[str, str] = {}
        self._config: dict[str, Any] = {}
        self._is_complete = False

    def join(self, module: nn.Module) -> JoinedText:
        """Take in a model's encoder, which lets go of its own transformer; what computes in its place.

        Raises CheckpointError, which goes on a sentence begun with the model's name, for one that cannot share.
        """
        if type(module) is not TextModule or issubclass(module.gives, CausalFeatures):
            raise CheckpointError("its encoder is none of core.text, which alone can be shared.")
        factors = _factors(module)
        prints, config = _prints(module.transformer), compared_config(module.transformer.config)
        if self._is_complete:
            raise RuntimeError("the shared encoder has begun to read, and takes no more models.")
        if not self.modules:
            self._prints, self._config = prints, config
        elif odd := sorted(name for name in {*prints, *self._prints} if prints.get(name) != self._prints.get(name)):
            raise CheckpointError(
                f"its base has other weights, as {odd[0]} ({len(odd)} of {len(self._prints)} differ)."
            )
        elif config != self._config:
            raise CheckpointError("its base has the same weights in another configuration.")
        self.modules.append(module)
        self._factors.append(factors)
        module.transformer, module.adapter, module.lean = self.modules[0].transformer, None, None
        return JoinedText(self, len(self.modules) - 1)

    def complete(self) -> None:
        """Put a shared product in the place of each linear layer of the base, once all have joined."""
        if self._is_complete:
            return
        transformer = self.modules[0].transformer
        found = {name: layer for name, layer in transformer.named_modules() if _is_linear(name, layer)}
        plain = {name.removesuffix(".base_layer"): _linear(layer.weight, layer.bias) for name, layer in found.items()}
        for place, layer in plain.items():
            transformer.set_submodule(place, layer)
        names = {layer: place for place, layer in plain.items()}
        groups = [group for module in transformer.modules() for group in trios(module)]
        together = {layer for group in groups for layer in group}
        for group in [*groups, *([layer] for layer in names if layer not in together)]:
            places = [names[layer] for layer in group]
            added = [
                {model: factors[place] for model, factors in enumerate(self._factors) if place in factors}
                for place in places
            ]
            product = SharedProduct(group, added, self._owners)
            for number, place in enumerate(places):
                transformer.set_submodule(place, SharedLinear(product, number))
        self._factors, self._is_complete = [], True

    def read(self, parts: Sequence[Part]) -> list[TokenFeatures]:
        """The features of each part, from one pass over the tokens of all: what each model alone would give."""
        self.complete()
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
        self.transformer = shared.modules[0].transformer  # for those who walk over the layers of a model

    def forward(self, batch: Batch) -> TokenFeatures:
        """As TextModule."""
        return self.shared.read([Part(self.model, batch)])[0]


def _is_linear(name: str, layer: nn.Module) -> bool:
    """Whether it is one of the base: an adapter's own layers stand beside theirs."""
    parts = name.split(".")
    return isinstance(layer, nn.Linear) and not any(each.startswith("lora_") or each == UNREAD for each in parts)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer with these weights, of which nothing was made yet."""
    made = nn.Linear(1, 1, bias=False, device="meta")
    made.out_features, made.in_features = weight.shape
    made.weight = nn.Parameter(weight.detach(), requires_grad=False)
    made.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))
    return made


def _factors(module: TextModule) -> dict[str, Factors]:
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
