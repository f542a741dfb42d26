"""What a run's model needs, counted on one small pass over real examples: weights, what backward keeps, operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from heliostat.batch import Draws
from heliostat.data.drawn import drawn
from heliostat.data.plan import BatchPlan, micro_batches
from heliostat.model import Model, build_model, count_parameters
from heliostat.run import AdamW, Muon, Run, Sgd
from heliostat.train.muon import hidden_matrices
from heliostat.train.sharded import layers
from heliostat.train.update import batch_tokens

if TYPE_CHECKING:
    from heliostat.data.prepared import Prepared

PASS_TOKENS = 1024
"""Tokens of the pass that is counted: enough for shares to be even, few enough for a second."""


class Parameters(NamedTuple):
    """Numbers in a part of the model."""

    trained: int
    total: int


class Footprint(NamedTuple):
    """What a model asks of the worker that holds all of it. Bytes are those of one copy."""

    encoder: Parameters
    head: Parameters
    optimizer_bytes: int
    """What the optimiser keeps of each number that it changes."""
    average_bytes: int
    """The moving average of `train.ema`."""
    kept_bytes: float
    """What forward keeps for backward, a token."""
    layer_kept_bytes: float
    """The part of it that lies within the repeated layers, a token; activation checkpointing keeps none of it."""
    layer_input_bytes: float
    """What it keeps instead: what goes into all layers, a token."""
    num_layers: int
    """Repeated layers; 0 where nothing can be computed again."""
    largest_layer: int
    """Numbers in the largest of them: what FSDP gathers at once, beside what lies in no layer."""
    outside_layers: int
    """Numbers in no repeated layer."""
    flops: float
    """Floating-point operations of forward and backward, a token."""

    @property
    def trained(self) -> int:
        """Numbers that training changes."""
        return self.encoder.trained + self.head.trained

    @property
    def total(self) -> int:
        """All numbers."""
        return self.encoder.total + self.head.total


def footprint_of(run: Run, prepared: Prepared) -> Footprint:
    """Build the model and make one pass with it, forward and backward, on this machine's processor."""
    parts = prepared.parts(run)
    torch.manual_seed(run.train.seed)
    model = build_model(parts.encoder, parts.head)
    encoder, head = (Parameters(*count_parameters(part)) for part in (model.encoder, model.head))
    repeated = list(layers(model.encoder))
    sizes = [sum(each.numel() for each in layer.parameters()) for layer in repeated]
    kept = _one_pass(run, prepared, parts, model, repeated)
    can_repeat = any(getattr(module, "supports_gradient_checkpointing", False) for module in model.modules())
    return Footprint(
        encoder,
        head,
        optimizer_bytes=_optimizer_bytes(run, model),
        average_bytes=4 * (encoder.trained + head.trained) if run.train.ema else 0,
        kept_bytes=kept.bytes / kept.tokens,
        layer_kept_bytes=kept.in_layers / kept.tokens,
        layer_input_bytes=kept.into_layers / kept.tokens,
        num_layers=len(repeated) if can_repeat else 0,
        largest_layer=max(sizes, default=0),
        outside_layers=encoder.total + head.total - sum(sizes),
        flops=kept.flops / kept.tokens,
    )


def _optimizer_bytes(run: Run, model: Model) -> int:
    """4 bytes a number that is kept: two moments of AdamW; a momentum of SGD, RMSprop and Muon where there is one."""
    chosen = run.train.optimizer
    trained = [each for each in model.parameters() if each.requires_grad]
    hidden = hidden_matrices(model) if isinstance(chosen, Muon) else set()
    if isinstance(chosen, (AdamW, Muon)):
        return sum(each.numel() * (4 if each in hidden else 8) for each in trained)
    kept = int(chosen.momentum > 0) + int(not isinstance(chosen, Sgd))  # RMSprop keeps squares
    return 4 * kept * sum(each.numel() for each in trained)


class _Kept:
    """What was seen of one pass."""

    def __init__(self, model: nn.Module) -> None:
        self.tokens, self.flops = 1, 0.0
        self.bytes = self.in_layers = self.into_layers = 0.0
        self.depth = 0
        self._seen = {each.untyped_storage().data_ptr() for each in model.parameters()}

    def note(self, tensor: Tensor) -> Tensor:
        """A tensor that forward keeps; one whose memory was counted is not counted again."""
        place = tensor.untyped_storage().data_ptr()
        if place not in self._seen:
            self._seen.add(place)
            size = tensor.untyped_storage().nbytes()
            self.bytes += size
            self.in_layers += size if self.depth else 0
        return tensor

    @contextmanager
    def watching(self, repeated: list[nn.Module]) -> Iterator[None]:
        """Tell what happens within these layers apart."""

        def enter(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            self.depth += 1
            states = next((each for each in (*inputs, *named.values()) if isinstance(each, Tensor)), None)
            if self.depth == 1 and states is not None:
                self.into_layers += states.nbytes

        def leave(*_: Any) -> None:
            self.depth -= 1

        hooks = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in repeated]
        hooks += [layer.register_forward_hook(leave) for layer in repeated]
        try:
            with torch.autograd.graph.saved_tensors_hooks(self.note, lambda tensor: tensor):
                yield
        finally:
            for hook in hooks:
                hook.remove()


def _one_pass(run: Run, prepared: Prepared, parts: Any, model: Model, repeated: list[nn.Module]) -> _Kept:
    """Forward and backward over the first examples of the plan that hold about `PASS_TOKENS` tokens."""
    from torch.utils.flop_counter import FlopCounterMode

    train, settings = prepared.shards("train"), run.train
    plan = BatchPlan(train.lengths, tokens_per_batch=settings.tokens_per_batch, seed=settings.seed)
    rows = micro_batches(next(plan.batches(0)), train.lengths, PASS_TOKENS)[0]
    batch = drawn(train, rows, parts.head, Draws(settings.seed, 0), parts.encoder.spec())
    kept = _Kept(model)
    kept.tokens = batch_tokens(batch)
    model.train()
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: _linear_flops})
    with counter:
        with kept.watching(repeated), torch.autocast("cpu", torch.bfloat16, settings.precision == "bf16"):
            terms = model(batch)
        torch.stack([terms[name].float() for name in terms]).sum().backward()  # type: ignore[no-untyped-call]
    kept.flops = float(counter.get_total_flops())
    return kept


def _linear_flops(rows: tuple[int, ...], weight: tuple[int, ...], *_: Any, **__: Any) -> int:
    """Of oneDNN's product with a bias, which torch's counter does not know: [.., I] by [O, I]."""
    count = 1
    for size in rows[:-1]:
        count *= size
    return 2 * count * weight[0] * weight[1]
