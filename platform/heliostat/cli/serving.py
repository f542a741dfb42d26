"""`heliostat serve start`: models or a deployment file behind one address, until Ctrl-C, a SIGTERM or `stop`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heliostat.errors import HeliostatError, ServeError, Stopped

if TYPE_CHECKING:
    from heliostat.serve.control import Errand
    from heliostat.serve.deploy_file import DeploySettings
    from heliostat.serve.deployment import Deployment


_ENDS = "Ctrl-C ends it."


class Precision(StrEnum):
    """Number format of the matrix products."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


def command(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL|FILE...",
            help="Models, as sentiment@champion, sentiment:3, or a checkpoint's folder; or a deployment file, with "
            "settings that lie over it, as port=0.",
        ),
    ],
    host: Annotated[
        str | None, typer.Option(help="Address to listen on (127.0.0.1); any but this machine's own needs keys.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="8000 by default; 0 takes a free one.")] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="Processes per model; 1 by default.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads per replica; by default the cores are shared.")
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Of the matrix products; by default bf16 where that is the faster one.")
    ] = None,
    keys: Annotated[Path | None, typer.Option(help="A file of keys (heliostat serve key new NAME).")] = None,
    token_file: Annotated[Path | None, typer.Option(help="A file with one bearer token, in place of keys.")] = None,
    new_token: Annotated[
        bool, typer.Option(help="Ask for the token in Heliostat's home, making one if need be.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once it answers; `heliostat serve stop` ends it.")
    ] = False,
) -> None:
    """Serve models, or what a deployment file says, until Ctrl-C. The word `start` may be left out."""
    from heliostat.serve.token import own_token

    order = _Order(what, host, port, replicas, threads, precision, keys)
    settings = order.settings()
    if detach:
        _detach([word for word in sys.argv[1:] if word != "--detach"])
        return
    if new_token and token_file is None:
        token_file = own_token()
    with _asked_to_stop() as asked:
        try:
            print(f"starting {', '.join(each.model for each in settings.models)} ...", flush=True)
            _serve(order, settings, token_file, asked)
        except Stopped as stopped:
            print("stopped.", flush=True)
            raise typer.Exit(stopped.exit_code) from None
        except SystemExit:  # Ray's own answer to a SIGTERM while it starts
            print("stopped.", flush=True)
            os._exit(143)  # Ray half started would crash the interpreter on its way out; its processes end with ours


def _detach(words: list[str]) -> None:
    """Run the same command in the background, and return once it answers, or with its exit code when it fails."""
    from heliostat.home import home
    from heliostat.serve.control import running

    out = home() / "logs" / f"serve-{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}.out"
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "heliostat", *words]
    with out.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        while process.poll() is None and process.pid not in [each.pid for each in running()]:
            time.sleep(0.1)
    except BaseException:
        process.terminate()
        raise
    print(
        out.read_text(encoding="utf-8").replace(_ENDS, "It runs in the background; 'heliostat serve stop' ends it."),
        end="",
    )
    if process.poll() is not None:
        raise typer.Exit(process.returncode)


def _serve(order: _Order, settings: DeploySettings, token_file: Path | None, asked: _Asked) -> None:
    from heliostat.demo.served import gallery
    from heliostat.serve.control import desk
    from heliostat.serve.deployment import deploy

    with deploy(settings, token_file=token_file, on_step=asked.check, page=gallery) as deployment:
        print(_greeting(deployment, token_file), flush=True)
        with desk(deployment.url, deployment.status) as errands:
            while True:
                asked.check()
                if errand := errands.next(0.1):
                    order = _run(errand, order, deployment, asked)


def _run(errand: Errand, order: _Order, deployment: Deployment, asked: _Asked) -> _Order:
    """Do what another terminal asks for; what `update` follows from now on. Raises Stopped when that is the end."""
    kind = errand.order.get("do")
    if kind == "stop":
        errand.done()
        raise Stopped("the deployment was stopped.", exit_code=0)
    try:
        if kind == "rollback":
            wanted, said = order, deployment.rollback(str(errand.order.get("name")), on_step=asked.check)
        elif kind == "update":
            file = errand.order.get("file")
            wanted = order.instead([file, *errand.order.get("overrides", [])]) if file else order
            said = deployment.update(wanted.settings(), on_step=asked.check)
        else:
            raise ServeError(f"a deployment can be asked for status, update, rollback and stop, not for '{kind}'.")
    except Stopped:
        raise
    except HeliostatError as error:
        errand.failed(error)
        print(f"{kind}: {error}", flush=True)
        return order
    for line in said:
        errand.say(line)
        print(line, flush=True)
    errand.done()
    return wanted


class _Order:
    """What the command line asked for; read again at each update."""

    def __init__(
        self,
        what: list[str],
        host: str | None,
        port: int | None,
        replicas: int | None,
        threads: int | None,
        precision: Precision | None,
        keys: Path | None,
    ) -> None:
        self._what = what
        self._above = {"host": host, "port": port, "keys": keys and keys.expanduser().absolute()}
        self._each = {"replicas": replicas, "threads": threads, "precision": precision and precision.value}

    def instead(self, what: list[str]) -> _Order:
        """With another file at the same address."""
        other = _Order(what, None, None, None, None, None, None)
        other._above = self._above
        return other

    def settings(self) -> DeploySettings:
        """Checked settings. Raises RunError with every mistake, ServeError for words that do not go together."""
        from heliostat.serve.deploy_file import check_deployment, load_deployment

        given = {name: value for name, value in self._above.items() if value is not None}
        each = {name: value for name, value in self._each.items() if value is not None}
        first, *rest = self._what
        if Path(first).suffix not in (".yaml", ".yml"):
            if odd := next((word for word in self._what if "=" in word or word.endswith((".yaml", ".yml"))), None):
                raise ServeError(f"'{odd}' stands among models. A deployment file comes first, its key=value after it.")
            return check_deployment({"models": [{"model": word, **each} for word in self._what], **given})
        if each:
            raise ServeError(f"--{next(iter(each))} is for models; {first} says it for each of its own.")
        if odd := next((word for word in rest if "=" not in word), None):
            raise ServeError(f"'{odd}' stands after {first}, which names the models itself. Write it there.")
        return load_deployment(Path(first), rest, given)


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
    if deployment.gallery:
        lines.insert(-1, f"gallery   {deployment.gallery}  (a page for people)")
    if token_file:
        lines.append(f"token     in {token_file}")
    if deployment.settings.keys:
        lines.append(f"keys      in {deployment.settings.keys}")
    return "\n".join(
        [
            *lines,
            "try",
            *(_curl(deployment, served.name, token_file) for served in deployment.models),
            _ENDS,
        ]
    )


def _curl(deployment: Deployment, name: str, token_file: Path | None) -> str:
    model = deployment.describe(name)
    record = model["samples"][0] if model["samples"] else dict.fromkeys(model["takes"]["properties"], "...")
    body = json.dumps({"instances": [record]}, ensure_ascii=False).replace("'", "\\u0027")
    key = f"$(cat {token_file})" if token_file else "$KEY" if deployment.settings.keys else ""
    header = f' -H "Authorization: Bearer {key}"' if key else ""
    return f"  curl {deployment.url}/v1/models/{name}:predict{header} -H 'Content-Type: application/json' -d '{body}'"
