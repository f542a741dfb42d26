"""Activation checkpointing: what a layer computed is computed again in backward instead of being kept."""

from __future__ import annotations

from typing import Any

from torch import nn

from heliostat.errors import TrainError


def checkpoint_activations(model: nn.Module) -> None:
    """Turn it on in every transformer of a model. Raises TrainError when there is none that can do it."""
    able: list[Any] = [
        module for module in model.modules() if getattr(module, "supports_gradient_checkpointing", False)
    ]
    if not able:
        raise TrainError(
            "train.activation_checkpointing has no effect: this model holds no transformer that can compute its layers "
            "again. Leave it out."
        )
    for module in able:
        # Its older name is all that the first releases of transformers 5 know.
        name = "activation_checkpointing_enable"
        enable = getattr(module, name if hasattr(module, name) else "gradient_checkpointing_enable")
        enable({"use_reentrant": False})
