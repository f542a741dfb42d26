"""`heliostat show`: a run as it will be, every default filled in, and where each value came from."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.syntax import Syntax


def command(
    run: Annotated[str, typer.Argument(help="A run file, or plugin/run as in sentiment/default.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings laid over it: key=value, as train.lr=3e-4.")
    ] = None,
) -> None:
    """Print the resolved run as YAML; mistakes all at once. Starts nothing."""
    from heliostat.run import load, locate, nested, read, render

    given = overrides or []
    checked = load(run, given)
    path = locate(run)
    text = render(checked, [(nested(given), "command line"), (read(path), path.name)])
    console = Console()
    if console.is_terminal:
        console.print(Syntax(text, "yaml", background_color="default", word_wrap=True))
    else:
        typer.echo(text, nl=False)
