"""Muon for hidden matrices beside AdamW for the rest, as one optimiser.

Muon takes the momentum of a matrix and replaces it by the nearest orthogonal matrix, found by Newton-Schulz
iterations, so that an update moves all directions alike (Jordan et al. 2024, "Muon: an optimizer for hidden layers in
neural networks"). Embeddings, output projections, heads and vectors are no maps between hidden states: AdamW has them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from heliostat.run import Muon as MuonSettings

Groups = list[dict[str, Any]]


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimisers of torch that step together, over one state and one list of groups.

    Groups with `is_hidden` hold `(name, matrix)` pairs for Muon; all others are AdamW's.
    """

    def __init__(self, groups: Groups, lr: float, settings: MuonSettings) -> None:
        super().__init__([dict(group) for group in groups], {"lr": lr})
        hidden = [group for group in groups if group["is_hidden"]]
        rest = [group for group in groups if not group["is_hidden"]]
        self.parts: list[torch.optim.Optimizer] = []
        if hidden:
            steps, momentum = settings.newton_schulz_steps, settings.momentum
            self.parts.append(
                torch.optim.Muon(hidden, lr=lr, momentum=momentum, nesterov=settings.nesterov, ns_steps=steps)
            )
        if rest:
            self.parts.append(torch.optim.AdamW(rest, lr=lr, betas=settings.betas, eps=settings.eps, fused=True))
        for part in self.parts:
            part.state = self.state
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Any = None) -> Any:
        """One update of both."""
        for part in self.parts:
            part.step()
        return None


def hidden_matrices(model: nn.Module) -> set[Tensor]:
    """The matrices between hidden states: of products and low-rank adapters, no output projection, not of the head."""
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    # Conv1D is how transformers' GPT-2 stores a product; other matrices (rows of biases, bags of words) are no maps.
    products = [
        each.weight for each in model.modules() if isinstance(each, nn.Linear) or type(each).__name__ == "Conv1D"
    ]
    maps = {id(weight) for weight in products}
    vocabulary = max((table.shape[0] for table in tables), default=0)  # an output projection has as many rows
    return {
        parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2
        and (id(parameter) in maps or ".lora_A." in name or ".lora_B." in name)
        and parameter.shape[0] != vocabulary
        and not name.startswith("head.")
        and all(parameter is not table for table in tables)
    }
