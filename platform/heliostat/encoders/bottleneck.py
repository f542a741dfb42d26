"""Bottleneck adapters (Houlsby et al. 2019): a narrow network behind a layer, added to what it gives."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from heliostat.encoders.adapter import BottleneckSettings


class Bottleneck(nn.Module):
    """A frozen layer and, behind it, a narrow network that starts as nothing: [..., dim] -> [..., dim]."""

    def __init__(self, base_layer: nn.Linear, size: int, dropout: float) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(base_layer.out_features, size)
        self.up = nn.Linear(size, base_layer.out_features)
        nn.init.normal_(self.down.weight, std=0.02)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, states: Tensor) -> Tensor:
        """What the layer gives, and what the narrow network adds to it."""
        given = self.base_layer(states)
        added = self.up(nn.functional.gelu(self.down(self.dropout(given))))
        return cast(Tensor, given + added)


def insert_bottlenecks(transformer: nn.Module, targets: list[str], settings: BottleneckSettings) -> None:
    """Put a bottleneck behind each of these layers, in place."""
    for name in targets:
        layer = transformer.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        transformer.set_submodule(name, Bottleneck(layer, settings.size, settings.dropout))
