"""`heliostat check-plugin`: does a plugin keep what it promises?"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape


def command(
    plugin: Annotated[str, typer.Argument(help="The plugin, as in sentiment.")],
    run: Annotated[str | None, typer.Option(help="A run file or plugin/run; by default its own `tiny`.")] = None,
) -> None:
    """Prove a plugin on its tiny run: settings, loss, predictions, resume, serving and demo."""
    from heliostat.run import load
    from heliostat.testing import CheckResult, check_plugin

    console = Console(highlight=False)

    def tell(result: CheckResult) -> None:
        mark = "[green]kept  [/]" if result.passed else "[red]broken[/]"
        console.print(f"{mark} {result.name} [dim]{escape(result.said)}[/]")

    try:
        check_plugin(plugin, load(run) if run else None, on_result=tell)
    except AssertionError:
        raise typer.Exit(1) from None
