"""What makes the same computation faster where the machine can do it: TF32 products, compiled layers."""

from __future__ import annotations

import torch
from torch import nn

from heliostat.encoders.attention import keep_from_compiler
from heliostat.errors import TrainError
from heliostat.train.sharded import layers

BACKEND = "inductor"
"""What writes the code of compiled layers; of torch's others, `aot_eager` traces the same graphs and compiles none."""


def set_matmul_precision(precision: str, device: torch.device) -> None:
    """Fix how torch multiplies fp32 matrices in this process: as they are, or on a GPU in TF32.

    Raises TrainError for tf32 where nothing computes in it.
    """
    if precision == "tf32" and not _has_tf32(device):
        raise TrainError(
            f"train.precision=tf32 has no effect on {device}: TF32 is a format of NVIDIA's GPUs since Ampere. "
            "Take fp32 or bf16."
        )
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")


def _has_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def compile_layers(model: nn.Module, device: torch.device) -> None:
    """Compile every layer of a model's encoder by itself, for any number of tokens, in place; names stay as they are.

    Raises TrainError where there are no layers to compile, or nothing that compiles them.
    """
    found = list(layers(model.get_submodule("encoder")))
    if not found:
        raise TrainError("train.compile has no effect: this encoder holds no list of layers. Leave it out.")
    _require_compiler(device)
    keep_from_compiler()
    for layer in found:
        layer.compile(dynamic=True, backend=BACKEND)


def _require_compiler(device: torch.device) -> None:
    """Compile something small: only that tells whether all that it takes is there."""
    try:
        torch.compile(lambda numbers: (numbers * 2 + 1).relu())(torch.ones(8, device=device))
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        needs = "Triton and a C compiler" if device.type == "cuda" else "a C++ compiler and the headers of Python"
        raise TrainError(
            f"train.compile needs {needs}, and nothing compiles here ({lines[0].strip()[:200]}). Install them, or "
            "leave train.compile out."
        ) from error
