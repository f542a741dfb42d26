"""What a run needs before anything starts: memory, time and cost on named machines, and how to scale it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from heliostat.cluster.fitting import Fit, smallest_change
from heliostat.cluster.footprint import Footprint, footprint_of
from heliostat.cluster.memory import CUDA_BYTES, Memory, Strategy, memory_of
from heliostat.cluster.prices import Machine, this_machine
from heliostat.cluster.probe import Probe
from heliostat.cluster.probe import probe as make_probe
from heliostat.cluster.work import Work, work_of
from heliostat.errors import RunError
from heliostat.run import Run, check, pinned
from heliostat.run.file import place

WITHIN_GB_S = 5.0
"""GB a second between workers of one machine, where the table does not say: through its memory."""
SHOWN_SHARDS = 8
"""Workers for which a plan shows what shards would hold, where the run asks for one."""


class Forecast(NamedTuple):
    """A run on a machine of the table, or on several of a kind."""

    machine: Machine
    fit: Fit
    seconds: float
    """Of the training, without preparation and the start of machines."""
    is_measured: bool
    """Whether a probe on this very machine says so; else operations and a stated efficiency."""
    measured_bytes: int = 0
    """What the probe's worker held, Python and its libraries included."""

    @property
    def usd(self) -> float:
        """What the machines cost for that long."""
        return self.machine.usd_per_hour * self.fit.machines * self.seconds / 3600


class Plan(NamedTuple):
    """All that `heliostat plan` says."""

    run: Run
    work: Work
    footprint: Footprint
    memories: dict[str, Memory]
    """A worker's memory by strategy, on the processor: `ddp`, `fsdp on N`, `lora`."""
    probe: Probe | None
    forecasts: list[Forecast]
    best: Forecast | None
    """The cheapest machine that it fits, the fastest of equals; None where it fits none."""

    @property
    def flops(self) -> float:
        """Operations of all updates together."""
        return self.footprint.flops * self.work.tokens


def plan(
    run: Run,
    machines: Sequence[Machine] = (),
    *,
    probe: bool = False,
    efficiency: float | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Plan `run` for this machine and those of a table; the data are prepared if they are not yet.

    `efficiency` is the share of a machine's products that a training reaches, in place of the table's. `probe` makes
    20 updates here, thrown away. Raises DataError, RunError, and TrainError when the probe fails.
    """
    from heliostat.ingest import prepare

    run = pinned(run)
    on_step("preparing the data")
    prepared = prepare(run)
    on_step("building the model")
    work, footprint, lora = work_of(run, prepared), footprint_of(run, prepared), None
    if (adapted := _with_lora(run)) is not None:
        lora = footprint_of(adapted, prepared)
    on_step("measuring this machine")
    here = this_machine(run.train.precision)
    found = None
    if probe:
        on_step("probing: 20 updates, two validations, two checkpoints")
        found = make_probe(run, prepared)
    table = [here, *machines]
    if efficiency is not None:
        table = [each.model_copy(update={"efficiency": efficiency}) for each in table]
    forecasts = [
        _forecast(run, work, footprint, lora, each, found if each.name == here.name else None) for each in table
    ]
    fitting = [each for each in forecasts if each.fit.fits]
    priced = [each for each in fitting if each.machine.usd_per_hour > 0] or fitting
    best = min(priced, key=lambda each: (each.usd, each.seconds), default=None)
    return Plan(run, work, footprint, _memories(run, footprint, lora, work.longest), found, forecasts, best)


def _with_lora(run: Run) -> Run | None:
    """The run with a LoRA adapter; None where that is no choice: no pretrained weights, one there, or no peft."""
    settings = run.encoder.settings
    is_choice = getattr(settings, "pretrained", None) and getattr(settings, "adapter", "none") is None
    if not is_choice or importlib.util.find_spec("peft") is None:
        return None
    try:
        return check(place(run.dump(), {"encoder.adapter": {"type": "lora"}}))
    except RunError:
        return None


def _memories(run: Run, footprint: Footprint, lora: Footprint | None, longest: int) -> dict[str, Memory]:
    workers = run.scaling.most_workers
    shards = workers if workers > 1 else SHOWN_SHARDS

    def one(which: Footprint, count: int, strategy: Strategy) -> Memory:
        return memory_of(run, which, workers=count, strategy=strategy, on_gpu=False, longest=longest)

    found = {"ddp": one(footprint, workers, "ddp"), f"fsdp on {shards}": one(footprint, shards, "fsdp")}
    return found | ({"lora": one(lora, workers, "ddp")} if lora else {})


def _forecast(
    run: Run, work: Work, footprint: Footprint, lora: Footprint | None, machine: Machine, probe: Probe | None
) -> Forecast:
    fit = smallest_change(run, footprint, lora, machine, work.longest)
    if probe and not fit.changes:
        seconds = probe.seconds(work.steps, work.validations)
        held = probe.baseline_bytes + probe.most_bytes(work.steps)
        return Forecast(machine, fit, seconds, True, CUDA_BYTES + probe.gpu_bytes if machine.gpus else held)
    return Forecast(machine, fit, seconds_on(run, work, footprint, machine, fit), False)


def seconds_on(run: Run, work: Work, footprint: Footprint, machine: Machine, fit: Fit) -> float:
    """Operations over what the workers compute a second, then the exchange of gradients, which nothing hides.

    A validation costs a third of the operations a token (no backward); an average is validated beside the weights.
    """
    rate = machine.tflops * 1e12 * machine.efficiency * (fit.workers if machine.gpus else 1)
    passes = work.validations * (2 if run.train.ema else 1)
    again = 4 / 3 if fit.changes.get("train.activation_checkpointing") or run.train.activation_checkpointing else 1.0
    compute = footprint.flops * (again * work.tokens + work.valid_tokens * passes / 3) / rate
    return compute + work.steps * exchange_s(4 * footprint.trained, fit.workers, machine, fit.machines)


def exchange_s(num_bytes: float, workers: int, machine: Machine, machines: int) -> float:
    """Seconds of a ring all-reduce: 2 (W - 1) / W of the bytes through each worker (Patarasuk and Yuan 2009)."""
    if workers == 1:
        return 0.0
    rate = 1e9 * (machine.network_gbit_s / 8 if machines > 1 else machine.link_gb_s or WITHIN_GB_S)
    return 2 * (workers - 1) / workers * num_bytes / rate


def scaling_of(forecast: Forecast) -> dict[str, Any]:
    """The `scaling:` of a run file for this machine."""
    return {"num_workers": forecast.fit.workers, "strategy": forecast.fit.strategy}
