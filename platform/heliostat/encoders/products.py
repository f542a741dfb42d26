"""Linear layers in bf16 on CPUs, with less moving of memory than torch's own.

There addmm writes its bias into every row of the result before it multiplies, and layers that read the same states
(queries, keys and values) read them three times and add up three gradients. Here oneDNN adds the bias as it writes, and
such layers are one product. A model that only answers has its weights laid out once, as oneDNN reads them (`pack`).
Shapes: T tokens, I and O numbers that go in and come out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from heliostat.shapes import familiar

_TRIOS = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("q_lin", "k_lin", "v_lin"))
"""What transformers' models call layers that read the same states."""
_FEW_ROWS = 128
"""Tokens that weights are laid out for; oneDNN takes the same order for more."""


class Linear(nn.Linear):
    """nn.Linear with the products of this module."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        if not _is_ours(input):
            return super().forward(input)
        return self.packed.multiply(input) if self.packed else multiply(input, (self,))

    @property
    def packed(self) -> Packed | None:
        """The weights of this layer and of those that multiply with it, once they are laid out."""
        return self.__dict__.get("laid_out")

    @property
    def packed_rows(self) -> int:
        """Rows of the weight that stands packed: those of the layers that multiply with this one, too."""
        followers: tuple[nn.Linear, ...] = self.__dict__.get("followers", ())
        return self.out_features + sum(each.out_features for each in followers)


class Leader(Linear):
    """The first of layers that read the same states: it multiplies for all of them."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., I] -> [..., O]; what belongs to the others waits for them."""
        followers: tuple[Follower, ...] = self.__dict__["followers"]
        if not ((self.training or self.packed) and _is_ours(input)):
            return super().forward(input)
        joint = self.packed.multiply(input) if self.packed else multiply(input, (self, *followers))
        own, *others = torch.split(joint, [self.out_features, *(each.out_features for each in followers)], -1)
        for follower, part in zip(followers, others, strict=True):
            follower.__dict__["waiting"] = (input, part)
        return own


class Follower(Linear):
    """One of the others. Where it reads other states after all, as in cross-attention, it multiplies itself."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        states, part = self.__dict__.pop("waiting", (None, None))
        return part if part is not None and states is input else super().forward(input)


def cheapen_products(model: nn.Module) -> None:
    """Make each nn.Linear of a model multiply here; names, weights and settings stay."""
    if not _has_bf16_products():
        return
    for module in model.modules():
        for leader, *others in trios(module):
            # Not by attribute: a module that is one becomes a child, and its weights would have two names.
            leader.__class__, leader.__dict__["followers"] = Leader, tuple(others)
            for other in others:
                other.__class__ = Follower
        if type(module) is nn.Linear:
            module.__class__ = Linear


class Packed(NamedTuple):
    """Weights of layers side by side, for answers alone: in bf16, in oneDNN's own order."""

    weight: Tensor
    bias: Tensor | None

    def multiply(self, states: Tensor, activation: Literal["none", "gelu"] = "none") -> Tensor:
        """[..., I] -> [..., sum of O]."""
        rows = states.to(torch.bfloat16).flatten(0, -2)
        form = "none" if activation == "gelu" else ""  # of gelu: the exact one
        product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, activation, [], form)
        return product.view(*states.shape[:-1], product.shape[1])

    def multiply_onto(self, states: Tensor, others: Tensor) -> Tensor:
        """[T, I], and [T, O] that is added: [T, O]. All in bf16."""
        onto: Tensor = torch.ops.mkldnn._linear_pointwise.binary(states, others, self.weight, self.bias, "add")
        return onto


@torch.no_grad()
def pack(model: nn.Module) -> None:
    """Lay the weights of a model that only answers out for its bf16 products, once and not at each call.

    A weight that is changed afterwards changes no answer.
    """
    for module in model.modules():
        layers = (module, *module.__dict__["followers"]) if isinstance(module, Leader) else (module,)
        if not isinstance(module, Linear) or module.weight.device.type != "cpu":
            continue
        biases = [each.bias for each in layers if each.bias is not None]
        weight = torch.ops.mkldnn._reorder_linear_weight(_side_by_side([each.weight for each in layers]), _FEW_ROWS)
        module.__dict__["laid_out"] = Packed(weight, _side_by_side(biases) if biases else None)


@torch.inference_mode()
def warm(model: nn.Module, most_rows: int, seconds: float) -> int:
    """Have oneDNN compile what the products of packed weights need, for each familiar count of rows up to `most_rows`.

    Small counts come first. Ends after `seconds`; returns how many products were tried.
    """
    layers = [each for each in model.modules() if isinstance(each, Linear)]
    kinds = {(e.in_features, e.packed_rows, e.bias is None): e.packed for e in layers if e.packed}
    until, tried, rows = time.monotonic() + seconds, 0, 0
    while (rows := familiar(rows + 1)) <= most_rows:
        for (width, *_), packed in kinds.items():
            if time.monotonic() > until:
                return tried
            packed.multiply(torch.zeros(rows, width, dtype=torch.bfloat16))
            tried += 1
    return tried


def multiply(states: Tensor, layers: Sequence[nn.Linear]) -> Tensor:
    """[..., I] by the weights of all layers, side by side: [..., sum of O]."""
    biases = [each.bias for each in layers if each.bias is not None]
    weights = [each.weight for each in layers]
    rows = states.to(torch.bfloat16).flatten(0, -2)
    product: Tensor = _Product.apply(rows, len(layers), *weights, *biases)  # type: ignore[no-untyped-call]
    return product.view(*states.shape[:-1], product.shape[1])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, count: int, *parameters: Tensor) -> Tensor:
        weight = _side_by_side(parameters[:count])
        bias = _side_by_side(parameters[count:]) if parameters[count:] else None
        ctx.save_for_backward(rows, weight)
        ctx.sizes, ctx.has_bias = [len(each) for each in parameters[:count]], bias is not None
        ctx.dtypes = [each.dtype for each in parameters]
        product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
        return product

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        flowing, wanted = grads[0], ctx.needs_input_grad
        to_rows = flowing @ weight if wanted[0] else None
        to_parameters: list[Tensor | None] = [None] * len(ctx.dtypes)
        if any(wanted[2:]):
            parts = list(torch.split(_gradient(flowing, rows), ctx.sizes))
            parts += torch.split(flowing.sum(0), ctx.sizes) if ctx.has_bias else []
            to_parameters = [
                torch.empty(part.shape, dtype=dtype).copy_(part)
                if is_wanted
                else None  # as its parameter lies in memory
                for part, dtype, is_wanted in zip(parts, ctx.dtypes, wanted[2:], strict=True)
            ]
        return to_rows, None, *to_parameters


def _gradient(flowing: Tensor, rows: Tensor) -> Tensor:
    """Of a weight [O, I], from what flows back [T, O] and what went in [T, I].

    The product whose result is tall is the faster one, and turning its result costs little.
    """
    return flowing.t() @ rows if flowing.shape[1] >= rows.shape[1] else (rows.t() @ flowing).t()


def _side_by_side(parameters: Sequence[Tensor]) -> Tensor:
    """Parameters in bf16, one behind another."""
    joined = parameters[0].new_empty(sum(map(len, parameters)), *parameters[0].shape[1:], dtype=torch.bfloat16)
    for part, parameter in zip(torch.split(joined, [len(each) for each in parameters]), parameters, strict=True):
        part.copy_(parameter)
    return joined


def _is_ours(states: Tensor) -> bool:
    is_bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16
    return is_bf16 and states.device.type == "cpu" and states.numel() > 0 and not torch.compiler.is_compiling()


def _has_bf16_products() -> bool:
    is_there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return is_there and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def trios(module: nn.Module) -> Iterator[list[nn.Linear]]:
    """Children that read the same states (queries, keys, values), as far as their names and shapes tell."""
    children = dict(module.named_children())
    for names in _TRIOS:
        found = [child for name in names if type(child := children.get(name)) is nn.Linear]
        alike = len({each.in_features for each in found}) == len({each.bias is None for each in found}) == 1
        if len(found) == len(names) and alike:
            yield found
