"""`heliostat serve`: models of the store behind one address, changed while they answer, and the keys to them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from heliostat.cli import serving

_START = "start"


class _Serve(TyperGroup):
    """`heliostat serve MODEL` and `heliostat serve FILE` are short for `heliostat serve start ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [_START, *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


app = typer.Typer(
    cls=_Serve,
    no_args_is_help=True,
    help="Serve models over HTTP: `heliostat serve sentiment@champion` or `heliostat serve deploy.yaml` (options: "
    "`heliostat serve start -h`), and look after what runs.",
)
keys = typer.Typer(no_args_is_help=True, help="The keys that a deployment asks for; they are stored as hashes.")
app.command(_START)(serving.command)
app.add_typer(keys, name="key")

Port = Annotated[int | None, typer.Option(help="Which deployment, where several run.")]
KeysFile = Annotated[Path | None, typer.Option("--keys", help="The file of the keys; keys.json in Heliostat's home.")]


@app.command()
def status(
    port: Port = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print plain values, for programs.")] = False,
) -> None:
    """How the deployment stands: models, versions, replicas, and how canaries and shadows compare."""
    from heliostat.serve.control import the_one

    found = the_one(port)
    told = found.ask({"do": "status"})
    if as_json:
        print(json.dumps({**told, "since": found.since}, indent=2))
    else:
        _print_status({**told, "since": found.since})


@app.command()
def update(
    file: Annotated[
        Path | None, typer.Argument(help="The deployment file; by default what it was started with.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="As limits.max_waiting=64.")] = None,
    port: Port = None,
) -> None:
    """Bring the deployment to what a file says, or read aliases anew, while it answers.

    A version that does not answer its golden requests takes no traffic: the command ends with 2, and all goes on.
    """
    from heliostat.serve.control import the_one

    order: dict[str, Any] = {"do": "update"}
    if file is not None:
        order |= {"file": str(file.expanduser().absolute()), "overrides": overrides or []}
    _order(the_one(port), order, "nothing to change.")


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="The model.")],
    port: Port = None,
) -> None:
    """End a model's canary, or go back to the version before its last update."""
    from heliostat.serve.control import the_one

    _order(the_one(port), {"do": "rollback", "name": name}, "nothing to change.")
    print("The deployment file and the store's aliases stay as they are: the next update follows them.")


@app.command()
def stop(port: Port = None) -> None:
    """End the deployment: what it has at hand is answered first."""
    from heliostat.errors import ServeError
    from heliostat.serve.control import the_one

    found = the_one(port)
    found.ask({"do": "stop"})
    if not found.wait_for_end(60.0):
        raise ServeError(f"the deployment at {found.url} is still ending (process {found.pid}).")
    print(f"stopped {found.url}.")


def _order(found: Any, order: dict[str, Any], nothing: str) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        print(line, flush=True)

    found.ask(order, say)
    if not said:
        print(nothing)


def _print_status(told: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("model", "version", "state", "replicas", "asked for as", ""):
        table.add_column(title)
    for model in told["models"]:
        replicas = ", ".join(f"{count} {state.lower()}" for state, count in model["replicas"].items() if count)
        replicas += ", shared" if model.get("shared") else ""
        table.add_row(model["name"], str(model["version"]), model["state"], replicas, model["reference"], "")
        for kind in ("canary", "shadow"):
            if kind in model:
                each = model[kind]
                row = (
                    f"  {kind}",
                    str(each["version"]),
                    each["state"],
                    f"{each['percent']:g} %",
                    _compared(kind, each),
                )
                table.add_row(*row[:4], "", row[4])
    console = Console()
    console.print(f"{told['url']}  since {told['since']}, process {told['pid']}, log {told['log']}", soft_wrap=True)
    console.print(table)
    if told.get("gallery"):
        console.print(f"gallery {told['gallery']}", soft_wrap=True)


def _compared(kind: str, told: dict[str, Any]) -> str:
    """What a canary or shadow did, in a line."""
    if not told.get("answered") and not told.get("failed"):
        return "no request yet"
    said = [f"{told['answered']} answered", f"{told['failed']} failed"]
    if kind == "shadow" and told["agreement"] is not None:
        said.append(f"{100 * told['agreement']:.1f} % of {told['records']} records agree")
        said.append(f"numbers differ by {told['difference']['max']:.2g} at most")
    own, other = told["latency_ms"]["own"], told["latency_ms"]["other"]
    if own and other:
        said.append(f"{other['median']:.0f} ms where the version in use takes {own['median']:.0f} ms")
    return ", ".join(said)


@keys.command("new")
def new_key(
    name: Annotated[str, typer.Argument(help="Who will hold it: metrics and logs say this name.")],
    file: KeysFile = None,
    days: Annotated[int | None, typer.Option(min=1, help="Days until it stops being valid.")] = None,
    per_minute: Annotated[int | None, typer.Option(min=1, help="Requests a minute that it may send.")] = None,
) -> None:
    """Make a key, print it once and store its hash. A second one of a name takes over from the first."""
    from heliostat.serve import keys as room

    path = file or room.keys_path()
    print(room.new_key(path, name, days=days, per_minute=per_minute))
    print(f"Shown once; its hash is in {path}. A deployment with this file takes it at once.", file=sys.stderr)


@keys.command("list")
def list_keys(file: KeysFile = None) -> None:
    """Whose keys there are, since when and until when."""
    from rich.console import Console
    from rich.table import Table

    from heliostat.serve import keys as room

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("name", "hash", "created", "expires", "a minute"):
        table.add_column(title)
    for key in room.read_keys(file or room.keys_path()):
        until = f"{key.expires:%Y-%m-%d %H:%M}" if key.expires else "never"
        rate = str(key.per_minute) if key.per_minute else ""
        table.add_row(key.name, key.sha256[:8], f"{key.created:%Y-%m-%d %H:%M}", until, rate)
    Console().print(table)


@keys.command("drop")
def drop_key(
    name: Annotated[str, typer.Argument(help="Whose oldest key is to go.")],
    file: KeysFile = None,
) -> None:
    """Take away the oldest key of a name: it is refused from then on."""
    from heliostat.serve import keys as room

    left = room.drop_key(file or room.keys_path(), name)
    print(f"{name} has {left} key{'' if left == 1 else 's'} left.")
