"""`heliostat quickstart`: from raw records to an answered question, in one command."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from heliostat.component import Row
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
        sample = _serve_and_ask(told.version)
    name = told.version.name
    heliostat = _own_command()
    console.print("\nnext, try:")
    if sample is not None:
        asked = shlex.quote(json.dumps(sample, ensure_ascii=False))
        console.print(f"  {heliostat} predict {name}@champion --json {asked}", soft_wrap=True, markup=False)
    console.print(
        f"  {heliostat} serve {name}@champion      (and in another terminal: {heliostat} demo {name})", soft_wrap=True
    )
    if larger := _larger(run):
        console.print(f"  {heliostat} train {larger}      (all the data: a better model)", soft_wrap=True)


def _own_command() -> str:
    """What a person types to reach this program again."""
    if shutil.which("heliostat"):
        return "heliostat"
    path = os.path.relpath(sys.argv[0])
    return f"{shlex.quote(os.path.relpath(sys.executable))} -m heliostat" if path.endswith("__main__.py") else path


def _larger(run: str) -> str | None:
    """The run of the same plugin that takes all the data."""
    from heliostat.run import runs

    there, plugin = runs(), run.partition("/")[0]
    return next((each for each in (f"{plugin}/pretrained", f"{plugin}/default") if each in there and each != run), None)


def _serve_and_ask(version: ModelVersion) -> Row | None:
    """Serve a version, ask it the first of its samples over HTTP, and end the deployment; the sample, if it has any."""
    from heliostat.cli.story import bars, console
    from heliostat.serve.client import Client
    from heliostat.serve.deployment import serve

    name = version.name
    with bars() as progress:
        progress.add_task(f"serving {name}:{version.version}", total=None)
        deployment = serve([f"{name}:{version.version}"], port=0)
    try:
        client = Client(deployment.url, token=deployment.token)
        sample: Row | None = next(iter(client.model(name)["samples"]), None)
        answer = client.ask(name, [sample]) if sample is not None else None
    finally:
        deployment.stop()
    if answer is None:
        console.print("served    it answers, and has no sample to be asked: its head names none.", soft_wrap=True)
        return None
    shown = json.dumps(sample, ensure_ascii=False)
    console.print(f"asked     POST {deployment.url}/v1/models/{name}:predict  {shown}", soft_wrap=True)
    said = json.dumps(_rounded(answer.predictions[0]), ensure_ascii=False)
    console.print(f"answered  {said}  in {answer.latency_ms:.0f} ms", soft_wrap=True)
    return sample


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return round(value, 3) if isinstance(value, float) else value
