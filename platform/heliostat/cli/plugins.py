"""`heliostat plugins`: what is installed, what each plugin brings, and what is broken."""

from __future__ import annotations

from collections import defaultdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from heliostat.registry import PluginState, survey
from heliostat.run import runs


def command() -> None:
    """List the installed plugins, their components and their runs; a broken one with its reason."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("plugin", "version", "components", "runs"):
        table.add_column(heading, overflow="fold")
    there = sorted(runs())
    for state in survey():
        own = [run for run in there if run.startswith(f"{state.name}/")]
        table.add_row(
            f"[bold]{escape(state.name)}[/]", escape(state.version), _components(state), escape("\n".join(own))
        )
    Console().print(table)


def _components(state: PluginState) -> str:
    if state.problem:
        return f"[red]broken: {escape(state.problem)}[/]"
    by_kind: dict[str, list[str]] = defaultdict(list)
    for address, kind in state.components.items():
        by_kind[kind].append(address)
    lines = [f"[dim]{kind}[/] {escape(', '.join(addresses))}" for kind, addresses in sorted(by_kind.items())]
    return "\n".join(lines) or "[dim]none[/]"
