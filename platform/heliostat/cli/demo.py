"""`heliostat demo`: a page for a served model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    name: Annotated[str, typer.Argument(help="The model's name, as in sentiment.")],
    url: Annotated[str, typer.Option(help="Where the model is served.")] = "http://127.0.0.1:8000",
    host: Annotated[str, typer.Option(help="Where to listen; beyond loopback it needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port of the page; 0 takes a free one.")] = 7860,
    token_file: Annotated[Path | None, typer.Option(help="A file with the token of the deployment.")] = None,
) -> None:
    """Open a page that asks a served model: a form, examples, the answer, and a way to correct it."""
    from heliostat.demo.launch import launch

    launch(name, url=url, host=host, port=port, token_file=token_file)
