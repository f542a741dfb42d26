"""`heliostat submit`: a command of ours as a job on a Ray cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heliostat.cli.jobs import ADDRESS, TOKEN_FILE

if TYPE_CHECKING:
    from heliostat.cluster.order import Order

context_settings = {"allow_interspersed_args": False}
"""Options behind the first word are those of the job's command, even where the -- is forgotten."""
VERBS = ("train", "tune", "predict", "evaluate")
EPILOG = "heliostat submit --address http://head:8265 -- train sentiment/default train.lr=3e-4"


def command(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="-- VERB RUN [KEY=VALUE]...", help="train, tune, predict or evaluate, as on this machine."
        ),
    ],
    address: Annotated[str | None, ADDRESS] = None,
    token_file: Annotated[Path | None, TOKEN_FILE] = None,
    wait: Annotated[bool, typer.Option(help="Show what the job prints until it ends, and exit with its code.")] = True,
    home: Annotated[
        str | None, typer.Option(help="HELIOSTAT_HOME on the cluster: a folder that all its nodes share.")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An environment variable of the job. Not for secrets."),
    ] = None,
    data_there: Annotated[
        bool, typer.Option("--data-there", help="The data are where all nodes see them by this path: they stay there.")
    ] = False,
    installed: Annotated[
        bool, typer.Option("--installed", help="Take the platform and the plugins that the cluster has, if they fit.")
    ] = False,
    most_mb: Annotated[float, typer.Option(help="MB that may travel with the job.")] = 64.0,
    python: Annotated[str, typer.Option(help="The Python of Ray on the head.")] = "python",
) -> None:
    """Run a command on a Ray cluster: heliostat submit -- train sentiment/default.

    The run is checked here first. Files, platform and plugins travel; Ctrl-C leaves the job running.
    """
    from heliostat.cli.jobs import at, follow_job, tell_left
    from heliostat.cluster.head import connect
    from heliostat.cluster.submit import job_id, submit

    order = checked_order(words, data_there=data_there)
    variables = _variables(env or [])
    shipping: dict[str, Any] = {"home": home, "env": variables, "installed": installed, "most_mb": most_mb}
    for note in order.notes:
        typer.echo(f"note      {note}", err=True)
    client = connect(address, token_file)
    job = job_id(order)
    try:
        submit(client, order, python=python, job=job, on_wait=_Once(), **shipping)
    except KeyboardInterrupt:
        tell_left("The head may have taken the job, or take it yet.", job, address)
        raise typer.Exit(130) from None
    typer.echo(f"submitted {job}")
    if wait:
        raise typer.Exit(follow_job(client, job, address))
    typer.echo(f"See it:   heliostat jobs logs {job} --follow{at(address)}")


def checked_order(words: Sequence[str], *, data_there: bool) -> Order:
    """The order that a command stands for, its run, settings and options checked on this machine.

    Raises HeliostatError with what is wrong.
    """
    from heliostat.cluster.order import Order, order_model, order_run
    from heliostat.component import closest
    from heliostat.errors import ClusterError

    words = list(words[1:]) if words and words[0] == "heliostat" else list(words)
    if not words or words[0] not in VERBS:
        guess = closest(words[0], list(VERBS)) if words else None
        hint = f" ({guess}?)" if guess else ""
        found = f"found '{words[0]}'{hint}" if words else "found nothing"
        raise ClusterError(f"submit takes one of {', '.join(VERBS)} behind the --; {found}. As in: {EPILOG}")
    verb, *words = words
    told = _parsed(verb, words)
    if verb in ("predict", "evaluate"):
        given = {f"--{name}": told[name] for name in ("file", "data") if told.get(name)}
        return order_model(verb, words, told.get("reference") or told["model"], given, data_there=data_there)
    if told["resume"]:
        order = order_model(verb, words, told["resume"], {})
        return order if "://" not in told["resume"] else Order(verb, words, "resumed", order.plugins)
    if not told["run"]:
        raise ClusterError(f"there is nothing to {verb}: name a run, as in {EPILOG}")
    run = _checked_run(verb, told)
    return order_run(verb, words, told["run"], run, data_there=data_there)


def _parsed(verb: str, words: Sequence[str]) -> Mapping[str, Any]:
    """The options and arguments of a command by name. A wrong one ends this command as it would end that one."""
    from heliostat.cli import _build

    group: Any = typer.main.get_command(_build())
    told: Mapping[str, Any] = group.commands[verb].make_context(f"heliostat {verb}", list(words)).params
    return told


def _checked_run(verb: str, told: Mapping[str, Any]) -> Any:
    from heliostat.errors import RunError
    from heliostat.run import check, load, pinned

    if verb == "train":
        return load(told["run"], told["overrides"] or [])
    from heliostat.cli.sweep import searched_values
    from heliostat.tune.plan import planned

    values = searched_values(told["run"], told["settings"] or [], told["trials"])
    run = check(values)
    try:
        pinned(run)
    except RunError:
        return run  # goes on from a model that the cluster's store has: the job checks the rest
    return planned(values).run


def _variables(given: Sequence[str]) -> dict[str, str]:
    from heliostat.errors import ClusterError

    pairs = [each.partition("=") for each in given]
    odd = [name for name, sign, _ in pairs if not sign or not name.isidentifier()]
    if odd:
        raise ClusterError(f"--env {odd[0]}: takes the form NAME=VALUE.")
    return {name: value for name, _, value in pairs}


class _Once:
    """Says a sentence when it first comes."""

    def __init__(self) -> None:
        self.said: set[str] = set()

    def __call__(self, sentence: str) -> None:
        if sentence not in self.said:
            self.said.add(sentence)
            typer.echo(f"waiting   {sentence}", err=True)
