"""A frozen transformer with an adapter in it: LoRA and AdaLoRA of peft, and bottlenecks of our own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heliostat.encoders.adapter import ADAPTER, AdaLoraSettings, AdapterSettings, BottleneckSettings, LoraSettings
from heliostat.encoders.base import Base
from heliostat.encoders.bottleneck import insert_bottlenecks
from heliostat.encoders.ranks import RankSchedule
from heliostat.encoders.targets import find_targets
from heliostat.errors import CheckpointError, Problem, RunError

CONFIG = "adapter_config.json"
"""The name that peft gives an adapter's settings: `PeftModel.from_pretrained(base, folder)` reads LoRA and AdaLoRA."""
_NAME = "default"
_ROOT = "base_model.model."


class Adapted:
    """An adapter within a transformer, in which all else is frozen. Weights are named as in the transformer."""

    def __init__(
        self, transformer: nn.Module, settings: Any, base: Base, config: Any = None, ranks: RankSchedule | None = None
    ) -> None:
        self.transformer = transformer
        self.settings = settings
        self.base = base
        self.config = config  # of peft, where the adapter is
        self.ranks = ranks
        self.names = frozenset(name for name, parameter in transformer.named_parameters() if parameter.requires_grad)

    @property
    def merges(self) -> bool:
        """Whether checkpoints hold merged weights."""
        return bool(getattr(self.settings, "merge", False))

    def merged(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the adapted transformer -> those of a plain one that computes the same."""
        layers = {name: layer for name, layer in self.transformer.named_modules() if hasattr(layer, "get_delta_weight")}
        plain = {}
        for name, tensor in weights.items():
            if ".base_layer." in name:
                place, _, leaf = name.partition(".base_layer.")
                change = self._change(weights, place, layers[place]) if leaf == "weight" else None
                plain[f"{place}.{leaf}"] = tensor if change is None else (tensor.float() + change).to(tensor.dtype)
            elif ".lora_" not in name and ".ranknum." not in name:
                plain[name] = tensor
        return plain

    def _change(self, weights: Mapping[str, Tensor], place: str, layer: Any) -> Tensor:
        """What an adapter adds to one weight matrix: [out, in] (or [in, out] where the layer stores it so)."""
        first, second = self._factors(weights, place, layer)
        change = second @ first
        return change.T if layer.fan_in_fan_out else change

    def _factors(self, weights: Mapping[str, Tensor], place: str, layer: Any) -> tuple[Tensor, Tensor]:
        if self.ranks is None:
            first, second = (weights[f"{place}.lora_{which}.{_NAME}.weight"].float() for which in "AB")
            return first, second * float(layer.scaling[_NAME])
        first, second, scales = (weights[f"{place}.lora_{which}.{_NAME}"].float() for which in "ABE")
        return first * scales, second * float(layer.scaling[_NAME] / (layer.r[_NAME] + 1e-5))

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Layer -> two factors, [rank, in] and [out, rank], whose product the adapter adds to its weight.

        Raises ValueError for an adapter that adds something else.
        """
        if isinstance(self.settings, BottleneckSettings):
            raise ValueError(
                "its adapter is a bottleneck, and only those of low rank (lora, adalora) can share a base."
            )
        weights = dict(self.transformer.named_parameters())
        named = self.transformer.named_modules()
        layers = {name: layer for name, layer in named if hasattr(layer, "get_delta_weight")}
        return {name: self._factors(weights, name, layer) for name, layer in layers.items()}

    def save(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write the adapter and the address of its base, without the base."""
        from safetensors.torch import save_file

        self.base.write(folder)
        peft_names = {_ROOT + name.replace(f".{_NAME}", ""): weights[name].contiguous() for name in sorted(self.names)}
        save_file(peft_names, folder / ADAPTER, metadata={"format": "pt"})
        if self.config is not None:
            values = {key: sorted(v) if isinstance(v, set) else v for key, v in self.config.to_dict().items()}
            values |= {"base_model_name_or_path": self.base.address, "inference_mode": True, "rank_pattern": {}}
            text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False)
            (folder / CONFIG).write_text(text + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote. Raises CheckpointError when it is missing, or belongs to another base or adapter."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        Base.read(folder).match(self.base)
        try:
            tensors = load_file(folder / ADAPTER)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{folder / ADAPTER} cannot be read: {error}") from None
        own = dict(self.transformer.named_parameters())
        named = {name: tensors.get(_ROOT + name.replace(f".{_NAME}", "")) for name in self.names}
        if len(tensors) != len(named) or any(t is None or t.shape != own[n].shape for n, t in named.items()):
            raise CheckpointError(f"{folder / ADAPTER} does not fit the adapter that its run describes.")
        with torch.no_grad():
            for name, tensor in named.items():
                own[name].copy_(tensor)


def adapt(transformer: nn.Module, settings: AdapterSettings, base: Base) -> Adapted:
    """Freeze a transformer and put an adapter into it, in place.

    Raises RunError when `settings.targets` name no layer.
    """
    transformer.requires_grad_(False)
    targets = find_targets(transformer, settings)
    if isinstance(settings, BottleneckSettings):
        insert_bottlenecks(transformer, targets, settings)
        return Adapted(transformer, settings, base)
    try:
        import peft
    except ImportError:
        rule = f"of type {settings.type} needs peft: pip install 'heliostat[peft]'."
        raise RunError([Problem("encoder.adapter", rule)]) from None
    common: dict[str, Any] = {"target_modules": targets, "lora_dropout": settings.dropout, "lora_alpha": settings.alpha}
    if isinstance(settings, LoraSettings):
        config = peft.LoraConfig(r=settings.rank, **common)
        peft.inject_adapter_in_model(config, transformer, _NAME)
        return Adapted(transformer, settings, base, config)
    assert isinstance(settings, AdaLoraSettings)
    ranks: dict[str, Any] = {"init_r": settings.initial_rank, "target_r": settings.rank, "deltaT": settings.every}
    # How many updates there will be is known when training begins: `RankSchedule.begin`.
    config = peft.AdaLoraConfig(total_step=1000, orth_reg_weight=settings.orthogonality, **ranks, **common)
    tuner = peft.AdaLoraModel(transformer, config, _NAME)  # type: ignore[no-untyped-call]
    return Adapted(transformer, settings, base, config, RankSchedule(tuner, settings))
