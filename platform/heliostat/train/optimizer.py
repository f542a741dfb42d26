"""The optimiser over named parameters in groups, whose state travels as plain named tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from heliostat.run import AdamW, Muon, RmsProp, Sgd, TrainSettings
from heliostat.train.muon import Groups, MuonWithAdamW, hidden_matrices
from heliostat.train.sharded import cut_like, whole
from heliostat.train.staging import Staging

DepthOf = Callable[[str], int | None]
"""How deep an encoder's parameter lies: 0 for embeddings, k for the k-th layer, None for neither."""


def build_optimizer(
    model: nn.Module, settings: TrainSettings, depth_of: DepthOf | None = None
) -> torch.optim.Optimizer:
    """The optimiser that `settings` name; matrices decay, biases, norms and other vectors do not.

    Each group has a `scale`, its share of `train.lr` by depth: `depth_of` is that of the model's encoder.
    """
    chosen = settings.optimizer
    matrices = hidden_matrices(model) if isinstance(chosen, Muon) else set()
    groups = _groups(model, settings, matrices, _scales(model, settings.layer_decay, depth_of))
    if isinstance(chosen, AdamW):
        return torch.optim.AdamW(groups, lr=settings.lr, betas=chosen.betas, eps=chosen.eps, fused=True)
    if isinstance(chosen, Sgd):
        return torch.optim.SGD(groups, lr=settings.lr, momentum=chosen.momentum, nesterov=chosen.nesterov)
    if isinstance(chosen, RmsProp):
        return torch.optim.RMSprop(groups, lr=settings.lr, alpha=chosen.alpha, eps=chosen.eps, momentum=chosen.momentum)
    return MuonWithAdamW(groups, settings.lr, chosen)


def _groups(model: nn.Module, settings: TrainSettings, hidden: set[Tensor], scales: dict[str, float]) -> Groups:
    """Parameters that share decay, kind and scale, as `(name, parameter)` pairs."""
    ratio = settings.optimizer.lr / settings.lr if isinstance(settings.optimizer, Muon) else 1.0
    groups: dict[tuple[bool, bool, float], list[tuple[str, Tensor]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (parameter in hidden, parameter.ndim >= 2, scales.get(name, 1.0))
            groups.setdefault(key, []).append((name, parameter))
    return [
        {
            "params": pairs,
            "weight_decay": settings.weight_decay if decays else 0.0,
            "is_hidden": is_hidden,
            "scale": scale * (ratio if is_hidden else 1.0),
        }
        for (is_hidden, decays, scale), pairs in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]


def _scales(model: nn.Module, decay: float, depth_of: DepthOf | None) -> dict[str, float]:
    """Layer-wise decay (Howard and Ruder 2018): the head 1, the last layer `decay`, the one below its square."""
    if decay == 1.0 or depth_of is None:
        return {}
    names = [name for name, _ in model.named_parameters() if name.startswith("encoder.")]
    depths = {name: depth_of(name.removeprefix("encoder.")) for name in names}
    top = max((depth for depth in depths.values() if depth is not None), default=0)
    return {name: decay ** (top + 1 - depth) for name, depth in depths.items() if depth is not None}


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of the next update; each group takes its own share of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: nn.Module, staging: Staging | None = None
) -> dict[str, Tensor]:
    """The optimiser's state as `<parameter>/<what>` -> a copy of the whole tensor. Every worker calls it."""
    staging = staging or Staging()
    return {
        f"{name}/{what}": staging.copy(f"{name}/{what}", whole(torch.as_tensor(value).detach()))
        for name, parameter in model.named_parameters()
        for what, value in optimizer.state.get(parameter, {}).items()
        if value is not None  # SGD without momentum keeps the place of one
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took; what the optimiser held before is dropped."""
    parameters = dict(model.named_parameters())
    fused = {parameter for group in optimizer.param_groups if group.get("fused") for parameter in group["params"]}
    optimizer.state.clear()
    for key, tensor in tensors.items():
        name, _, what = key.rpartition("/")
        parameter: Any = parameters[name]
        # Moments are as their parameter. Steps are counted on the host, unless one kernel does the whole update.
        if what != "step" and tensor.shape == parameter.shape:
            optimizer.state[parameter][what] = cut_like(tensor, parameter)
        else:
            on_device = what != "step" or parameter in fused
            optimizer.state[parameter][what] = tensor.to(parameter.device if on_device else "cpu")
