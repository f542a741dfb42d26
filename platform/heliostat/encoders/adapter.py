"""What a run may say about fine-tuning a few parameters beside a frozen pretrained encoder.

An encoder with a transformers module takes part by having the setting `adapter: AdapterSettings | None = None` and by
calling `heliostat.encoders.adapted.adapt` in its `module`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from heliostat.component import Settings, closest

ADAPTER = "adapter_model.safetensors"
"""The file of an adapter that is kept apart from its base, by the name that peft gives it."""

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Targets = Annotated[tuple[str, ...], Field(min_length=1)] | None


class _Adapter(Settings):
    dropout: Share = 0.0
    """Of what goes into the adapter, in training."""
    targets: Targets = None
    """Layers that get one, by the ends of their names, as [query, value]; None takes what is usual for the model."""


class LoraSettings(_Adapter):
    """Low-rank updates of weight matrices (Hu et al. 2021)."""

    type: Literal["lora"]
    rank: Count = 8
    alpha: Annotated[float, Field(gt=0.0)] = 16
    """The update is multiplied by alpha / rank."""
    merge: bool = False
    """True: checkpoints hold the merged weights and load like any. False: they hold the adapter and name its base."""


class AdaLoraSettings(_Adapter):
    """Low-rank updates whose ranks are given out by importance while training goes on (Zhang et al. 2023)."""

    type: Literal["adalora"]
    rank: Count = 8
    """Average rank of a matrix at the end."""
    initial_rank: Count = 12
    """Rank of every matrix at the beginning; greater than `rank`."""
    alpha: Annotated[float, Field(gt=0.0)] = 16
    """The update is multiplied by alpha / initial_rank."""
    merge: bool = False
    """True: checkpoints hold the merged weights and load like any. False: they hold the adapter and name its base."""
    warmup: Share = 0.1
    """Share of the training before ranks begin to fall."""
    final: Share = 0.3
    """Share of the training, at its end, in which ranks stay as they are."""
    every: Count = 10
    """Updates between two allocations of ranks."""
    orthogonality: Annotated[float, Field(ge=0.0)] = 0.5
    """Weight of the penalty that keeps both factors of an update near orthogonal."""

    @model_validator(mode="after")
    def _ranks_fall(self) -> Self:
        if self.initial_rank <= self.rank:
            rule = f"initial_rank ({self.initial_rank}) must be greater than rank ({self.rank}), to which ranks fall."
            raise PydanticCustomError("ranks", "{rule}", {"rule": rule})
        if self.warmup + self.final >= 1.0:
            raise PydanticCustomError("ranks", "warmup + final must leave something in between (below 1).")
        return self


class BottleneckSettings(_Adapter):
    """A narrow network behind each target, added to what it gives (Houlsby et al. 2019). It cannot be merged."""

    type: Literal["bottleneck"]
    size: Count = 64
    """Width of the narrow layer."""


_ADAPTERS: dict[str, type[Settings]] = {
    "lora": LoraSettings,
    "adalora": AdaLoraSettings,
    "bottleneck": BottleneckSettings,
}


def _adapter(data: Any) -> Any:
    if data is None or isinstance(data, Settings):
        return data
    kind = data.get("type") if isinstance(data, Mapping) else data
    if not isinstance(data, Mapping) or kind not in _ADAPTERS:
        guess = closest(str(kind), list(_ADAPTERS))
        hint = f" Did you mean '{guess}'?" if guess and guess != kind else ""
        text = f"takes the form {{type: <way>, ...}}, where <way> is one of {', '.join(_ADAPTERS)}.{hint}"
        raise PydanticCustomError("adapter", "{sentence}", {"sentence": text})
    return _ADAPTERS[str(kind)].model_validate(data)


AdapterSettings = Annotated[
    LoraSettings | AdaLoraSettings | BottleneckSettings, WrapValidator(lambda data, _: _adapter(data))
]
"""The value of `encoder.adapter`: one of the ways above, by its `type`."""
