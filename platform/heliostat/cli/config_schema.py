"""`heliostat config-schema`: what an editor needs to complete and check run files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def command(
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of the screen.")] = None,
    deploy: Annotated[bool, typer.Option("--deploy", help="That of a deployment file.")] = False,
) -> None:
    """Print the JSON Schema of a run file, with the settings of every installed component, or of a deployment file.

    An editor finds it by a first line such as `# yaml-language-server: $schema=heliostat.schema.json`.
    """
    from heliostat.run import Run
    from heliostat.serve.deploy_file import DeploySettings

    form = DeploySettings if deploy else Run
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **form.model_json_schema()}
    text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
        kind = "deployment" if deploy else "run"
        line = f"# yaml-language-server: $schema={out}"
        Console().print(f"Wrote {out}. First line for a {kind} file: {line}", markup=False)
