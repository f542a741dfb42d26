"""`heliostat quickstart`: from raw reviews to an answered question, in one command."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from heliostat.models import ModelVersion


def command(
    run: Annotated[str, typer.Argument(help="The run to start with.")] = "sentiment/quickstart",
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value laid over it.")] = None,
) -> None:
    """Train, evaluate, store, serve and ask one question: the whole path, in minutes."""
    from heliostat.cli.story import console, tell_training
    from heliostat.home import home
    from heliostat.ray_session import ray_session

    log = home() / "logs" / "quickstart-ray.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with ray_session(log):  # one Ray for training and serving: its start costs seconds
        told = tell_training(run, overrides or [])
        assert told.version is not None
        _serve_and_ask(told.version)
    name = told.version.name
    heliostat = "heliostat" if shutil.which("heliostat") else os.path.relpath(sys.argv[0])
    console.print("\nnext, try:")
    console.print(f'  {heliostat} predict {name}@champion "Lovely fabric, but it runs small."')
    console.print(f"  {heliostat} serve {name}@champion      (and in another terminal: {heliostat} demo {name})")
    console.print(f"  {heliostat} train sentiment/pretrained      (all the data: a better model)")


def _serve_and_ask(version: ModelVersion) -> None:
    """Serve a version, ask it the first of its samples over HTTP, and end the deployment."""
    from heliostat.cli.story import bars, console
    from heliostat.serve.client import Client
    from heliostat.serve.deployment import serve

    name = version.name
    with bars() as progress:
        progress.add_task(f"serving {name}:{version.version}", total=None)
        deployment = serve([f"{name}:{version.version}"], port=0)
    try:
        client = Client(deployment.url, token=deployment.token)
        sample = client.model(name)["samples"][0]
        answer = client.ask(name, [sample])
    finally:
        deployment.stop()
    shown = json.dumps(sample, ensure_ascii=False)
    console.print(f"asked     POST {deployment.url}/v1/models/{name}:predict  {shown}", soft_wrap=True)
    said = json.dumps(_rounded(answer.predictions[0]), ensure_ascii=False)
    console.print(f"answered  {said}  in {answer.latency_ms:.0f} ms", soft_wrap=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return round(value, 3) if isinstance(value, float) else value
