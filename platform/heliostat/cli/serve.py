"""`heliostat serve`: models of the store behind one address, until Ctrl-C."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heliostat.errors import Stopped

if TYPE_CHECKING:
    from heliostat.serve.deployment import Deployment


class Precision(StrEnum):
    """Number format of the matrix products."""

    FP32 = "fp32"
    BF16 = "bf16"


def command(
    models: Annotated[list[str], typer.Argument(help="As sentiment@champion, sentiment:3, or a checkpoint's folder.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    replicas: Annotated[int, typer.Option(min=1, help="Processes per model.")] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads per replica; by default the cores are shared.")
    ] = None,
    precision: Annotated[Precision, typer.Option(help="Number format of the matrix products.")] = Precision.FP32,
    token_file: Annotated[Path | None, typer.Option(help="A file with the bearer token that requests need.")] = None,
    new_token: Annotated[
        bool, typer.Option(help="Ask for the token in Heliostat's home, making one if need be.")
    ] = False,
) -> None:
    """Serve models over HTTP until Ctrl-C."""
    from heliostat.serve.deployment import serve
    from heliostat.serve.token import own_token

    if new_token and token_file is None:
        token_file = own_token()
    try:
        with _signals():
            print(f"starting {', '.join(models)} ...", flush=True)
            deployment = serve(
                models,
                host=host,
                port=port,
                replicas=replicas,
                threads=threads,
                precision=precision.value,
                token_file=token_file,
            )
        with deployment, _signals():  # Ray put its own in their place
            print(_greeting(deployment, token_file), flush=True)
            threading.Event().wait()
    except Stopped as stopped:
        print("stopped.", flush=True)
        raise typer.Exit(stopped.exit_code) from None


@contextmanager
def _signals() -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into Stopped, so that whatever has been started is ended on the way out."""

    def stop(number: int, _: Any) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):  # ending takes seconds, and a second Ctrl-C must not cut it short
            signal.signal(each, signal.SIG_IGN)
        raise Stopped("the deployment was stopped.", exit_code=0 if number == signal.SIGINT else 143)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)
    try:
        yield
    except SystemExit:  # how Ray answers a SIGTERM while it starts
        raise Stopped("the deployment was stopped.", exit_code=143) from None


def _greeting(deployment: Deployment, token_file: Path | None) -> str:
    """Where the models answer, and a line to try each with."""
    lines = [f"{served.name} version {served.version} answers at {deployment.url}" for served in deployment.models]
    lines += [f"docs      {deployment.url}/docs", f"log       {deployment.log}"]
    if token_file:
        lines.append(f"token     in {token_file}")
    return "\n".join(
        [
            *lines,
            "try",
            *(_curl(deployment, served.name, token_file) for served in deployment.models),
            "Ctrl-C ends it.",
        ]
    )


def _curl(deployment: Deployment, name: str, token_file: Path | None) -> str:
    from heliostat.serve.client import Client

    with Client(deployment.url, deployment.token) as client:
        model = client.model(name)
    record = model["samples"][0] if model["samples"] else dict.fromkeys(model["takes"]["properties"], "...")
    body = json.dumps({"instances": [record]}, ensure_ascii=False).replace("'", "\\u0027")
    token = f' -H "Authorization: Bearer $(cat {token_file})"' if token_file else ""
    return f"  curl {deployment.url}/v1/models/{name}:predict{token} -H 'Content-Type: application/json' -d '{body}'"
