"""`heliostat serve`: models of the store behind one address, until Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import time
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
    with _asked_to_stop() as asked:
        try:
            print(f"starting {', '.join(models)} ...", flush=True)
            with serve(
                models,
                host=host,
                port=port,
                replicas=replicas,
                threads=threads,
                precision=precision.value,
                token_file=token_file,
                on_step=asked.check,
            ) as deployment:
                print(_greeting(deployment, token_file), flush=True)
                while True:
                    asked.check()
                    time.sleep(0.1)
        except Stopped as stopped:
            print("stopped.", flush=True)
            raise typer.Exit(stopped.exit_code) from None
        except SystemExit:  # Ray's own answer to a SIGTERM while it starts
            print("stopped.", flush=True)
            os._exit(143)  # Ray half started would crash the interpreter on its way out; its processes end with ours


class _Asked:
    """Whether somebody asked us to stop. A signal only leaves a note: raised inside Ray's code it would tear it."""

    def __init__(self) -> None:
        self.signal = 0

    def note(self, number: int, _: Any) -> None:
        """Receive a signal."""
        self.signal = number
        signal.alarm(0)  # Ray's C++ side, where it saw the signal first, would abort this process in 3 s

    def check(self) -> None:
        """Raise Stopped when a signal came."""
        if self.signal:
            raise Stopped("the deployment was stopped.", exit_code=0 if self.signal == signal.SIGINT else 143)


@contextmanager
def _asked_to_stop() -> Iterator[_Asked]:
    """Take note of Ctrl-C and SIGTERM, as often as they come, until all has been ended."""
    asked = _Asked()
    own = {number: signal.signal(number, asked.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, answer in own.items():
            signal.signal(number, answer)


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
