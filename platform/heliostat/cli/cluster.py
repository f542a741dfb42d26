"""`heliostat cluster`: files for clusters, from run files and models."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from heliostat.cluster.kinds import Kind

app = typer.Typer(help="Write what a cluster needs, from a run file or models.", no_args_is_help=True)
_render = typer.Typer(help="Write objects from our files.", no_args_is_help=True)
app.add_typer(_render, name="render")


@_render.callback()
def _group() -> None:
    """Write objects from our files."""


@_render.command()
def kuberay(
    what: Annotated[
        list[str],
        typer.Argument(metavar="RUN [KEY=VALUE]... | MODEL...", help="A run and settings; or models to serve."),
    ],
    kind: Annotated[
        Kind | None, typer.Option(help="What to write; by default train for a run, service for models.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Of every pod; by default the one of cluster/docker.")] = None,
    namespace: Annotated[str, typer.Option(help="Where all of it goes.")] = "heliostat",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Pods, where the run leaves it to the cluster, and for a search.")
    ] = None,
    cpus: Annotated[
        int | None, typer.Option(min=1, help="Cores a worker; by default threads_per_worker, or 4.")
    ] = None,
    memory: Annotated[int, typer.Option(min=1, help="GiB a worker; `heliostat plan RUN` says how many.")] = 16,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs a worker.")] = 0,
    replicas: Annotated[int | None, typer.Option(min=1, help="Of each model that is served; 2 by default.")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="When --kind cron trains again: minute hour day month weekday; 0 3 * * 0.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder: a file an object; without it all goes to the screen.")
    ] = None,
) -> None:
    """RayJob, RayCluster, RayCronJob or RayService of a run or of models, with all that they need beside them."""
    from heliostat.cluster.render import as_yaml, write

    size = {"cpus": cpus, "memory_gib": memory, "gpus": gpus}
    wishes = {"schedule": schedule, "replicas": replicas}
    told = {name: value for name, value in wishes.items() if value is not None}
    objects = _objects(what, kind, image, size, workers, namespace=namespace, **told)
    if out is None:
        print(as_yaml(objects), end="")
        return
    made_by = shlex.join(["heliostat", *(_told(sys.argv[1:]))])
    for path in write(objects, out, made_by):
        typer.echo(path)


def _objects(
    what: list[str],
    kind: Kind | None,
    image: str | None,
    size: dict[str, Any],
    workers: int | None,
    **wishes: Any,
) -> Any:
    """What `what` stands for: a deployment file, models, or a run with its settings."""
    from heliostat.cluster.pods import Size, default_image
    from heliostat.cluster.render import (
        Wish,
        is_model,
        refuse_without_effect,
        render_deployment,
        render_run,
        render_service,
        size_of,
    )
    from heliostat.run import load

    image = image or default_image(size["gpus"])
    file = Path(what[0]) if what[0].endswith((".yaml", ".yml")) else None
    is_deployment = bool(file and file.is_file() and "\nmodels:" in "\n" + file.read_text(encoding="utf-8"))
    kind = kind or (Kind.SERVICE if is_deployment or is_model(what[0]) else Kind.TRAIN)
    told = {f"--{name}" for name in ("replicas", "schedule") if name in wishes} | ({"--workers"} if workers else set())
    refuse_without_effect(kind, told, what[1:], is_deployment=is_deployment)
    if kind is Kind.SERVICE:
        wish = Wish(kind, Size(image, **{**size, "cpus": size["cpus"] or 2}), **wishes)
        return render_deployment(file, wish) if file and is_deployment else render_service(what, wish)
    sized = size_of(load(what[0], what[1:]), kind, image, workers=workers, **size)
    return render_run(what[0], what[1:], Wish(kind, sized, **wishes))


def _told(words: list[str]) -> list[str]:
    """The command line without `--out`: where the files lie says that."""
    kept, skip = [], False
    for word in words:
        if skip or word == "--out":
            skip = word == "--out"
        elif not word.startswith("--out="):
            kept.append(word)
    return kept
