"""`heliostat plan`: what a run needs, before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from heliostat.cluster.plan import Forecast, Plan


def command(
    reference: Annotated[str, typer.Argument(metavar="RUN", help="A run file, or plugin/name.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Laid over the file.")] = None,
    on: Annotated[
        Path | None, typer.Option("--on", help="A table of machines and prices, as cluster/machines.yaml.")
    ] = None,
    probe: Annotated[bool, typer.Option("--probe", help="Make 20 updates here, thrown away, and go by them.")] = False,
    efficiency: Annotated[
        float | None, typer.Option(min=0.001, max=1.0, help="Share of a machine's products that a training reaches.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write it as JSON.")] = False,
) -> None:
    """Memory, time and cost of a run on this machine and others, what will not fit, and how to scale it."""
    from heliostat.cluster.prices import read_machines
    from heliostat.run import load

    run = load(reference, overrides or [])
    machines = read_machines(on) if on else []
    from heliostat.cluster.plan import plan

    console = Console(stderr=as_json)
    with console.status("planning") as status:
        found = plan(run, machines, probe=probe, efficiency=efficiency, on_step=status.update)
    if as_json:
        print(json.dumps(as_values(found), indent=1))
        return
    for table in (_parameters(found), _work(found), _memory(found), _machines(found)):
        console.print(table)
    for line in last_words(found):
        console.print(line, highlight=False, soft_wrap=True)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return table


def _parameters(found: Plan) -> Table:
    table = _table("Parameters", "part", "trained", "all")
    for name, part in (("encoder", found.footprint.encoder), ("head", found.footprint.head)):
        table.add_row(name, f"{part.trained:,}", f"{part.total:,}")
    return table


def _work(found: Plan) -> Table:
    work = found.work
    table = _table("Work", "what", "count")
    table.add_row("examples to learn from", f"{work.examples:,}")
    table.add_row("updates", f"{work.steps:,}")
    table.add_row("tokens, in all updates", f"{work.tokens:,}")
    table.add_row("tokens of an update", f"{work.tokens_per_step:,.0f}")
    table.add_row("validations", f"{work.validations:,} of {work.valid_examples:,} examples")
    table.add_row("operations", f"{found.flops / 1e12:,.1f} TFLOP")
    return table


def _memory(found: Plan) -> Table:
    rows = list(found.memories)
    table = _table("Memory of a worker on CPUs, in MB", "for", *rows)
    words = {"optimizer": "optimiser", "average": "average of weights", "gathered": "layers gathered"}
    words |= {"staged": "checkpoint being written", "process": "Python and libraries"}
    for field in next(iter(found.memories.values()))._fields:
        values = [getattr(memory, field) for memory in found.memories.values()]
        if any(values):
            table.add_row(words.get(field, field), *(f"{value / 1e6:,.0f}" for value in values))
    table.add_section()
    table.add_row("all", *(f"{memory.total / 1e6:,.0f}" for memory in found.memories.values()))
    return table


def _machines(found: Plan) -> Table:
    table = _table("Machines", "machine", "workers", "strategy", "GB needed / there", "hours", "USD", "fits")
    for each in found.forecasts:
        fit = each.fit
        table.add_row(
            f"{fit.machines} × {each.machine.name}" if fit.machines > 1 else each.machine.name,
            f"{fit.workers}",
            fit.strategy if fit.workers > 1 else "",
            f"{_needed(each) / 1e9:,.1f} / {fit.room_bytes / 1e9:,.1f}",
            f"{each.seconds / 3600:,.2f}" + (" measured" if each.is_measured else "") if fit.fits else "",
            f"{each.usd:,.2f}" if fit.fits and each.machine.usd_per_hour else "",
            _fits(each),
        )
    return table


def _needed(each: Forecast) -> float:
    return each.measured_bytes or each.fit.memory.total


def _fits(each: Forecast) -> str:
    if not each.fit.fits:
        return "[red]no, whatever is changed[/]"
    return "yes" if not each.fit.changes else "[yellow]with " + " ".join(_words(each.fit.changes)) + "[/]"


def _words(changes: Any) -> list[str]:
    return [f"{key}={json.dumps(value).replace(chr(34), '')}" for key, value in changes.items()]


def last_words(found: Plan) -> list[str]:
    """What was measured, what is taken for granted, and what to do."""
    lines = []
    if found.probe:
        probe = found.probe
        lines.append(
            f"Probe: {len(probe.step_s)} updates on {probe.num_workers} worker(s) of {probe.threads} thread(s), "
            f"{probe.tokens_per_s:,.0f} tokens/s, {probe.peak_bytes / 1e6:,.0f} MB beyond Python and its libraries "
            f"({probe.baseline_bytes / 1e6:,.0f} MB); {_share_of_products(found):.0%} of this machine's products."
        )
    stated = [each for each in found.forecasts if not each.is_measured]
    if stated:
        shares = ", ".join(f"{each.machine.name} {each.machine.efficiency:.0%}" for each in stated)
        lines.append(f"Hours without a probe are operations over a stated share of a machine's products: {shares}.")
    if found.best is None:
        most = min(each.fit.memory.total for each in found.forecasts) / 1e9
        lines.append(f"Nothing here holds this run: it takes a worker with {most / 0.9:,.0f} GB, or a smaller model.")
        return lines
    fit = found.best.fit
    changes = "".join(f" {word}" for word in _words(fit.changes))
    lines.append(f"Recommended, on {fit.machines} × {found.best.machine.name}:{changes}")
    strategy = f", strategy: {fit.strategy}" if fit.workers > 1 else ""
    lines.append(f"scaling: {{num_workers: {fit.workers}{strategy}}}")
    return lines


def _share_of_products(found: Plan) -> float:
    """What the probe reached of the best products of this machine: the `efficiency` of one like it."""
    assert found.probe is not None
    here = found.forecasts[0].machine
    return found.footprint.flops * found.probe.tokens_per_s / (here.tflops * 1e12 * max(1, here.gpus))


def as_values(found: Plan) -> dict[str, Any]:
    """The plan as plain values."""
    memories = {name: {**memory._asdict(), "total": memory.total} for name, memory in found.memories.items()}
    return {
        "run": found.run.name,
        "parameters": {"encoder": found.footprint.encoder._asdict(), "head": found.footprint.head._asdict()},
        "work": {**found.work._asdict(), "flops": found.flops},
        "memory_bytes": memories,
        "probe": found.probe._asdict() if found.probe else None,
        "machines": [_values(each) for each in found.forecasts],
        "recommended": _values(found.best) if found.best else None,
    }


def _values(each: Forecast) -> dict[str, Any]:
    fit = each.fit
    return {
        "machine": each.machine.name,
        "machines": fit.machines,
        "scaling": {"num_workers": fit.workers, "strategy": fit.strategy},
        "fits": fit.fits,
        "changes": dict(fit.changes),
        "needed_bytes": _needed(each),
        "room_bytes": fit.room_bytes,
        "seconds": each.seconds,
        "usd": each.usd,
        "is_measured": each.is_measured,
        "efficiency": each.machine.efficiency,
    }
