"""A model cut into shards (FSDP2), and its weights in one piece: for checkpoints that know no number of workers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from heliostat.model import Model
from heliostat.train.staging import Staging


def shard(model: Model, device: torch.device, world_size: int, precision: str) -> Model:
    """Cut a model's parameters over all workers, in place: each layer of the encoder by itself, then the rest.

    In bf16 a layer is gathered and computes in bf16; gradients are added up, and weights updated, in fp32.
    """
    mesh = init_device_mesh(device.type, (world_size,))
    is_half = precision == "bf16"
    inner = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if is_half else MixedPrecisionPolicy()
    outer = MixedPrecisionPolicy(torch.bfloat16, torch.float32, torch.float32) if is_half else inner
    for layer in layers(model.encoder):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, mp_policy=inner)
    # Cut again after each pass, so that between two passes every parameter is a shard.
    fully_shard(model, mesh=mesh, reshard_after_forward=True, mp_policy=outer)
    register_fsdp_forward_method(model, "validate")
    return model


def layers(encoder: nn.Module) -> Iterator[nn.Module]:
    """The repeated layers of an encoder: entries of its lists of modules of one class, lists within them aside."""
    for child in encoder.children():
        if isinstance(child, nn.ModuleList) and len(child) > 1 and len({type(layer) for layer in child}) == 1:
            yield from child
        else:
            yield from layers(child)


@contextmanager
def without_reduction(model: FSDPModule) -> Iterator[None]:
    """A context in which backward leaves whole gradients on each worker."""
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def local(tensor: Tensor) -> Tensor:
    """This worker's part of a tensor, sharing its memory: all of one that is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. Every worker must ask, for the same tensors in the same order."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut_like(full: Tensor, model: Tensor) -> Tensor:
    """A tensor that every worker has whole, sharded as `model` is; on its device."""
    full = full.to(model.device)
    if not isinstance(model, DTensor):
        return full
    return distribute_tensor(full, model.device_mesh, model.placements, src_data_rank=None)


@torch.no_grad()
def put(target: Tensor, full: Tensor) -> None:
    """Write a whole tensor into a parameter or buffer, sharded or not."""
    local(target).copy_(local(cut_like(full, target)))


class Whole:
    """A model in one piece, and an empty twin on the host that is filled when it is needed.

    The twin is made before the model is cut, compiled or moved. It answers while the model trains.
    """

    def __init__(self, model: Model, *, is_sharded: bool) -> None:
        self.model = model
        self.is_sharded = is_sharded
        empty = {id(parameter): _like(parameter, "meta") for parameter in model.parameters()}
        self.twin: Model = copy.deepcopy(model, dict(empty))
        self.staging = Staging()

    def load(self, part: str, read: Callable[[nn.Module], None]) -> None:
        """Let `read` put weights into the `encoder` or `head`. Every worker calls it."""
        if not self.is_sharded:
            read(getattr(self.model, part))
            return
        twin = getattr(self.twin, part)
        _fill(twin, "cpu")
        read(twin)
        self.put({f"{part}.{name}": tensor for name, tensor in twin.state_dict().items()})
        _fill(twin, "meta")

    def put(self, tensors: Mapping[str, Tensor]) -> None:
        """Write whole tensors, named as in the model's `state_dict`, into it. Every worker calls it."""
        own = self.model.state_dict()
        for name, tensor in tensors.items():
            put(own[name], tensor)

    def copies(self, what: str = "weights") -> dict[str, Tensor]:
        """Every weight, in the memory of the host; copies of those that training changes. Every worker calls it.

        The copies are good until the next ones of the same `what`.
        """
        frozen = _frozen(self.model)
        full = ((name, whole(tensor.detach())) for name, tensor in self.model.state_dict().items())
        return {
            name: tensor.to("cpu") if name in frozen else self.staging.copy(f"{what}/{name}", tensor)
            for name, tensor in full
        }

    def moving(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of these weights that training changes."""
        frozen = _frozen(self.model)
        return {name: tensor for name, tensor in weights.items() if name not in frozen}

    @contextmanager
    def holding(self, weights: Mapping[str, Tensor]) -> Iterator[Model]:
        """A model on the host that holds these weights, named as the model's own."""
        self.twin.load_state_dict(dict(weights), assign=True)
        try:
            yield self.twin.eval()
        finally:
            _fill(self.twin, "meta")


def _frozen(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def _like(parameter: Tensor, device: str) -> nn.Parameter:
    return nn.Parameter(torch.empty_like(parameter, device=device), requires_grad=parameter.requires_grad)


def _fill(module: nn.Module, device: str) -> None:
    """Give a module empty parameters on a device; those that are shared stay shared."""
    made: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = made.setdefault(id(parameter), _like(parameter, device))
