"""`heliostat config-schema`: what an editor needs to complete and check run files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def command(
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of the screen.")] = None,
) -> None:
    """Print the JSON Schema of a run file, with the settings of every installed component.

    An editor finds it by a first line such as `# yaml-language-server: $schema=heliostat.schema.json`.
    """
    from heliostat.run import Run

    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Run.model_json_schema()}
    text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
        Console().print(f"Wrote {out}. First line for a run file: # yaml-language-server: $schema={out}", markup=False)
