"""AdamW over named parameters, whose state travels as plain named tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from heliostat.run import TrainSettings
from heliostat.train.sharded import cut_like, whole


def build_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019); matrices decay, biases, norms and other vectors do not."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [pair for pair in named if pair[1].ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [pair for pair in named if pair[1].ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of the next update."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state as `<parameter>/<what>` -> a copy of the whole tensor. Every worker calls it."""
    return {
        f"{name}/{what}": whole(torch.as_tensor(value).detach()).to("cpu", copy=True)
        for name, parameter in model.named_parameters()
        for what, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took."""
    parameters = dict(model.named_parameters())
    for key, tensor in tensors.items():
        name, _, what = key.rpartition("/")
        parameter = parameters[name]
        # Moments are as their parameter; a count of steps is not.
        is_like = tensor.shape == parameter.shape and what != "step"
        optimizer.state[parameter][what] = cut_like(tensor, parameter) if is_like else tensor.to(parameter.device)
