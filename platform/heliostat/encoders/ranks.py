"""AdaLoRA's ranks while training goes on: peft gives them out, this keeps what it remembers (Zhang et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from heliostat.encoders.adapter import AdaLoraSettings


class RankSchedule:
    """Lets ranks fall from `initial_rank` to `rank` on average, the least important ones first.

    The loop calls `begin` once, `penalise` before a gradient is clipped and `allocate` after the optimiser's step.
    """

    def __init__(self, tuner: Any, settings: AdaLoraSettings) -> None:
        self.tuner = tuner  # peft's AdaLoraModel
        self.settings = settings

    @property
    def _config(self) -> Any:
        return next(iter(self.tuner.peft_config.values()))

    def begin(self, num_steps: int) -> None:
        """Say how many updates the training has."""
        self._config.total_step = num_steps
        self._config.tinit = int(self.settings.warmup * num_steps)
        self._config.tfinal = int(self.settings.final * num_steps)

    def penalise(self) -> None:
        """Add the gradient of the penalty to those of the factors: weight * mean of |A A' - I| and |B' B - I|.

        It does not depend on a batch, so it is added once an update, to the gradient of the global batch.
        """
        if not self.settings.orthogonality:
            return
        factors = [(name, p) for name, p in self._factors() if p.grad is not None]
        for name, parameter in factors:
            leaf = parameter.detach().clone().requires_grad_()
            product = leaf @ leaf.T if ".lora_A." in name else leaf.T @ leaf
            distance = torch.linalg.matrix_norm(product - torch.eye(len(product), device=leaf.device))
            (gradient,) = torch.autograd.grad(distance * (self.settings.orthogonality / len(factors)), leaf)
            assert parameter.grad is not None
            parameter.grad.add_(gradient)

    def _factors(self) -> list[tuple[str, torch.nn.Parameter]]:
        named = self.tuner.model.named_parameters()
        return [(name, p) for name, p in named if ".lora_A." in name or ".lora_B." in name]

    def allocate(self, step: int) -> None:
        """Weigh the ranks after update number `step` (from 1), and take some away where that is due."""
        is_final = step > self._config.total_step - self._config.tfinal
        if not (is_final and not self._config.rank_pattern):  # the update that would have fixed them was left out
            self.tuner.update_and_allocate(step)

    def ranks(self) -> dict[str, int]:
        """The rank that each adapted layer has now."""
        return {
            name.partition(".lora_E.")[0]: int((parameter.detach() != 0).sum())
            for name, parameter in self.tuner.model.named_parameters()
            if ".lora_E." in name
        }

    def state(self) -> dict[str, Tensor]:
        """What a resumed training needs to give out the same ranks: copies."""
        allocator = self.tuner.rankallocator
        pattern = {f"pattern/{name}": torch.tensor(kept) for name, kept in (self._config.rank_pattern or {}).items()}
        weighed = {
            f"{what}/{name}": tensor.detach().to("cpu", copy=True)
            for what in ("exp_avg_ipt", "exp_avg_unc")
            for name, tensor in getattr(allocator, what).items()
        }
        return {**pattern, **weighed}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave."""
        allocator = self.tuner.rankallocator
        allocator.reset_ipt()
        pattern = {}
        own = dict(self.tuner.model.named_parameters())
        for key, tensor in state.items():
            what, _, name = key.partition("/")
            if what == "pattern":
                pattern[name] = tensor.tolist()
            else:
                getattr(allocator, what)[name] = tensor.to(own[name].device)
                allocator.ipt[name] = torch.zeros_like(own[name])
        self._config.rank_pattern = pattern or None
