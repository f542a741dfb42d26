"""Which layers of a transformer get an adapter."""

from __future__ import annotations

from typing import Any

from torch import nn

from heliostat.encoders.adapter import BottleneckSettings
from heliostat.errors import Problem, RunError

_ATTENTION = (("query", "value"), ("q_lin", "v_lin"), ("q_proj", "v_proj"), ("q", "v"), ("Wqkv",), ("c_attn",))
"""What models call the projections that LoRA is usually put on; the first that is there is taken."""
_OUTPUTS = (
    *(("output.dense",), ("out_lin", "lin2"), ("out_proj", "fc2"), ("o_proj", "down_proj")),
    *(("o", "wo"), ("Wo",), ("c_proj",)),
)
"""What models call the last products of attention and feed-forward layers, behind which bottlenecks stand."""
UNREAD = "pooler"
"""A part of BERT models that nothing here reads: an adapter in it would never see a gradient."""


def find_targets(transformer: nn.Module, settings: Any) -> list[str]:
    """Full names of the layers that get an adapter. Raises RunError when a target names none."""
    is_bottleneck = isinstance(settings, BottleneckSettings)
    kinds = {"Linear"} if is_bottleneck else {"Linear", "Conv1D"}
    named = [(name, type(module).__name__) for name, module in transformer.named_modules()]
    layers = [name for name, kind in named if kind in kinds and UNREAD not in name.split(".")]
    usual = _OUTPUTS if is_bottleneck else _ATTENTION
    groups = usual if settings.targets is None else (settings.targets,)
    for group in groups:
        if all(_named(layers, target) for target in group):
            return sorted({name for target in group for name in _named(layers, target)})
    ends = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
    odd = [target for target in settings.targets or () if not _named(layers, target)]
    rule = f"'{odd[0]}' names no layer" if odd else f"must be named for a {type(transformer).__name__}"
    raise RunError([Problem("encoder.adapter.targets", f"{rule}; its layers end in {ends}.")])


def _named(layers: list[str], target: str) -> list[str]:
    return [name for name in layers if name == target or name.endswith(f".{target}")]
