"""`heliostat quickstart`: from raw reviews to an answered question, in one command."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    run: Annotated[str, typer.Argument(help="The run to start with.")] = "sentiment/quickstart",
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value laid over it.")] = None,
) -> None:
    """Train, evaluate, store, serve and ask one question: the whole path, in minutes."""
    from heliostat.cli.story import bars, console, tell_training
    from heliostat.serve.client import Client
    from heliostat.serve.deployment import serve

    told = tell_training(run, overrides or [])
    assert told.version is not None
    name = told.version.name
    with bars() as progress:
        progress.add_task(f"serving {name}@champion", total=None)
        deployment = serve([f"{name}@champion"], port=0)
    try:
        client = Client(deployment.url, token=deployment.token)
        sample = client.model(name)["samples"][0]
        answer = client.predict(name, [sample])[0]
        console.print(f"asked     POST {deployment.url}/v1/models/{name}:predict  {sample}", soft_wrap=True)
        console.print(f"answered  {answer}", soft_wrap=True)
    finally:
        deployment.stop()
    console.print("\nnext, try:")
    console.print(f'  heliostat predict {name}@champion "Lovely fabric, but it runs small."')
    console.print(f"  heliostat serve {name}@champion        (and in another terminal: heliostat demo {name})")
    console.print(f"  heliostat train {name}/pretrained      (all the data: a better model, in minutes)")
