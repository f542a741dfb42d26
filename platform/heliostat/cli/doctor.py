"""`heliostat doctor`: what this machine lacks, and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from heliostat.cli.jobs import ADDRESS, TOKEN_FILE


def command(
    address: Annotated[str | None, ADDRESS] = None,
    token_file: Annotated[Path | None, TOKEN_FILE] = None,
    mirror: Annotated[str | None, typer.Option(help="A bucket to try: s3://bucket/prefix.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Look at versions, ports, tokens, memory, GPUs, disks, plugins, storage and the cluster; say what to mend.

    Exits with 1 when something must be mended.
    """
    from rich.console import Console

    from heliostat.cluster.doctor import Asked, State, diagnose

    console, wrong = Console(soft_wrap=True, highlight=False), 0
    marks = {State.RIGHT: "[green]right[/]", State.NOTE: "[yellow]note [/]", State.WRONG: "[bold red]wrong[/]"}
    told = []
    for finding in diagnose(Asked(address, token_file, mirror)):
        wrong += finding.state is State.WRONG
        told.append(finding._asdict())
        if as_json:
            continue
        console.print(f"{marks[finding.state]}  ", end="")
        console.print(f"{finding.name:14} {finding.found}", markup=False)
        if finding.mend:
            console.print(f"{'':22} {finding.mend}", markup=False)
    if as_json:
        typer.echo(json.dumps(told, indent=1, ensure_ascii=False))
    elif wrong:
        console.print(f"\n{wrong} to mend." if wrong > 1 else "\nOne thing to mend.")
    raise typer.Exit(1 if wrong else 0)
