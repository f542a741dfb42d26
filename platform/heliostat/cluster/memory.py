"""The memory of a worker, by what it is for, and how it changes with the settings. Arithmetic alone; bytes."""

from __future__ import annotations

from typing import Literal, NamedTuple

from heliostat.cluster.footprint import Footprint
from heliostat.run import Run

Strategy = Literal["ddp", "fsdp"]
PROCESS_BYTES = 450 * 10**6
"""Python with torch, transformers and Ray, before anything is built."""
CUDA_BYTES = 700 * 10**6
"""What CUDA and its libraries take of a GPU beside torch's own memory."""
PASSING = 1.3
"""Forward and backward hold this many times what is kept: gradients of activations and results on their way."""


class Memory(NamedTuple):
    """Bytes of one worker at its fullest."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    """Of one micro-batch."""
    gathered: int
    """Layers that FSDP holds whole while it computes them."""
    staged: int
    """A checkpoint on its way to the disk: of rank 0, in the memory of the host."""
    process: int
    """Python and its libraries; on a GPU, CUDA."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


def tokens_at_once(run: Run, workers: int, longest: int = 0) -> int:
    """Tokens of the largest pass of one worker: its micro-batch, or its share of a batch that is smaller."""
    share = -(-run.train.tokens_per_batch // workers)
    return max(longest, min(run.train.tokens_per_micro_batch, share))


def memory_of(
    run: Run, footprint: Footprint, *, workers: int, strategy: Strategy, on_gpu: bool, longest: int = 0
) -> Memory:
    """What one of `workers` holds under a strategy."""
    shards = workers if strategy == "fsdp" else 1
    tokens = tokens_at_once(run, workers, longest)
    size = 2 if run.train.precision == "bf16" else 4
    whole = footprint.outside_layers + 2 * footprint.largest_layer  # the layer at hand and the next one
    return Memory(
        weights=4 * footprint.total // shards,
        gradients=4 * footprint.trained // shards,
        optimizer=footprint.optimizer_bytes // shards,
        average=footprint.average_bytes // shards,
        activations=round(PASSING * tokens * _kept(run, footprint)),
        gathered=2 * size * whole if shards > 1 else 0,
        staged=0 if on_gpu else 4 * footprint.total + footprint.optimizer_bytes + footprint.average_bytes,
        process=CUDA_BYTES if on_gpu else PROCESS_BYTES,
    )


def _kept(run: Run, footprint: Footprint) -> float:
    """Bytes a token that forward keeps. With checkpointing: what goes into each layer, and one layer whole."""
    if not (run.train.activation_checkpointing and footprint.num_layers):
        return footprint.kept_bytes
    outside = footprint.kept_bytes - footprint.layer_kept_bytes
    return outside + footprint.layer_input_bytes + footprint.layer_kept_bytes / footprint.num_layers
