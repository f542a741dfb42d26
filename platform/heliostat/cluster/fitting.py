"""What to change so that a run fits a machine, the smallest change first: those that leave the result alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from heliostat.cluster.footprint import Footprint
from heliostat.cluster.memory import Memory, Strategy, memory_of, tokens_at_once
from heliostat.cluster.prices import Machine
from heliostat.run import Run, check
from heliostat.run.file import place

LEAST_TOKENS = 256
"""A smaller micro-batch leaves a processor idle."""
ENOUGH_TOKENS = 2048
"""Tokens a step below which one more worker waits longer than it computes."""
MOST_SHARDS = 64
"""Workers among which a model is cut at most, in what a plan proposes."""
Changes = Mapping[str, Any]
"""Dotted keys of the run and the values that they take."""


class Fit(NamedTuple):
    """A run on a machine, or on several of a kind."""

    changes: Changes
    """What has to be said otherwise; nothing where the run fits as it is."""
    workers: int
    machines: int
    strategy: Strategy
    memory: Memory
    room_bytes: float
    """What one worker may fill."""

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return self.memory.total <= self.room_bytes


def workers_on(run: Run, machine: Machine) -> int:
    """As many as the run asks for; with auto one a GPU, as long as each has enough to do, or one without GPUs."""
    if run.scaling.num_workers != "auto":
        return run.scaling.most_workers
    return max(1, min(machine.most_workers, run.train.tokens_per_batch // ENOUGH_TOKENS))


def fit_of(run: Run, footprint: Footprint, machine: Machine, longest: int = 0, changes: Changes | None = None) -> Fit:
    """The run as it stands on a machine, whether it fits or not. Several workers on one without GPUs share its room."""
    workers = workers_on(run, machine)
    strategy: Strategy = "fsdp" if run.scaling.strategy == "fsdp" and workers > 1 else "ddp"
    machines = -(-workers // machine.gpus) if machine.gpus else 1
    memory = memory_of(run, footprint, workers=workers, strategy=strategy, on_gpu=bool(machine.gpus), longest=longest)
    room = machine.room_bytes / (1 if machine.gpus else workers)
    return Fit(changes or {}, workers, machines, strategy, memory, room)


def smallest_change(run: Run, footprint: Footprint, lora: Footprint | None, machine: Machine, longest: int = 0) -> Fit:
    """The first way in which the run fits; where none does, the run as it stands."""
    as_it_is = fit_of(run, footprint, machine, longest)
    if as_it_is.fits:
        return as_it_is
    for changes in _ways(run, footprint, lora, machine, longest):
        changed = check(place(run.dump(), changes))
        found = fit_of(changed, lora if lora and "encoder.adapter" in changes else footprint, machine, longest, changes)
        if found.fits:
            return found
    return as_it_is


def _ways(
    run: Run, footprint: Footprint, lora: Footprint | None, machine: Machine, longest: int
) -> Iterator[dict[str, Any]]:
    """Smaller passes; activations computed again; shards; and last, which trains something else, an adapter."""
    smaller = list(_smaller_passes(run, workers_on(run, machine), longest))
    yield from smaller
    again = {"train.activation_checkpointing": True}
    if footprint.num_layers and not run.train.activation_checkpointing:
        yield from (again | each for each in ({}, *smaller))
    else:
        again = {}
    least = smaller[-1] if smaller else {}
    if machine.gpus and getattr(getattr(run.encoder.settings, "adapter", None), "type", None) != "adalora":
        workers = max(2, machine.gpus)
        while workers <= MOST_SHARDS:
            shards = {"scaling.num_workers": workers, "scaling.strategy": "fsdp"}
            yield shards
            yield shards | again | least
            workers *= 2
    if lora:
        adapter = {"encoder.adapter": {"type": "lora"}}
        yield from (adapter | each for each in ({}, *smaller, again | least))


def _smaller_passes(run: Run, workers: int, longest: int) -> Iterator[dict[str, Any]]:
    tokens = tokens_at_once(run, workers) // 2
    while tokens >= max(LEAST_TOKENS, longest):
        yield {"train.tokens_per_micro_batch": tokens}
        tokens //= 2
