"""`heliostat models`: what is in the store, where it came from, and which alias points where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from heliostat.models import ModelVersion

app = typer.Typer(help="The model store: list, show, promote, export.", no_args_is_help=True)

_REFERENCE = typer.Argument(metavar="REF", help="name@alias, name:3, or name (the newest version).")


@app.command("list")
def list_models(name: Annotated[str | None, typer.Argument(help="Only this model.")] = None) -> None:
    """Every version, with its aliases and its first scores."""
    from heliostat.models import ModelStore

    store = ModelStore()
    versions = store.list(name)
    console = Console()
    if not console.is_terminal:
        for version in versions:
            typer.echo(json.dumps(_summary(version), ensure_ascii=False))
    elif not versions:
        console.print(f"The store is empty ({store.root}). 'heliostat train' puts its best checkpoint there.")
    else:
        table = Table("version", "aliases", "scores", "parameters", "made", "run")
        for version in versions:
            facts = version.metadata
            scores = "\n".join(f"{key} {score}" for key, score in [*version.scores.items()][:3])
            made = str(facts["created"])[:16].replace("T", " ")
            row = (
                str(version),
                ", ".join(version.aliases),
                scores,
                f"{facts['num_parameters']:,}",
                made,
                facts["run_id"],
            )
            table.add_row(*row)
        console.print(table)


@app.command()
def show(reference: Annotated[str, _REFERENCE]) -> None:
    """The model card of a version and its lineage, from the first corpus on; its facts as JSON into a pipe."""
    from rich.markdown import Markdown

    from heliostat.models import ModelStore
    from heliostat.models.chain import told

    version = ModelStore().resolve(reference)
    console = Console()
    if not console.is_terminal:
        typer.echo(json.dumps({**_summary(version), **version.metadata}, ensure_ascii=False, indent=1))
        return
    card = version.card.read_text(encoding="utf-8")
    console.print(Markdown(card.split("\n---\n", 1)[-1]))
    console.print(f"\nfolder: {version.folder.parent}")
    console.print("lineage:")
    for line in told(version.lineage, [f"{version.name}@{alias}" for alias in version.aliases]):
        console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)
    if version.report:
        console.print(f"report: {version.report}")


@app.command()
def promote(
    name: Annotated[str, typer.Argument(help="The model.")],
    version: Annotated[int, typer.Argument(min=1, help="The version that the alias will point at.")],
    alias: Annotated[str, typer.Argument(help="A name for it, as champion.")],
) -> None:
    """Point an alias at a version, in one step; what it pointed at before is printed."""
    from heliostat.models import ModelStore

    store = ModelStore()
    before = [each.version for each in store.list(name) if alias in each.aliases]
    promoted = store.promote(name, version, alias)
    was = f" (was {name}:{before[0]})" if before and before[0] != version else ""
    typer.echo(f"{name}@{alias} is now {promoted}{was}.")


@app.command()
def export(
    reference: Annotated[str, _REFERENCE],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
) -> None:
    """Copy a version to a folder that heliostat.load and plain transformers read."""
    from heliostat.models import ModelStore

    store = ModelStore()
    store.export(reference, out)
    encoder = f"; AutoModel.from_pretrained('{out}/encoder')" if (out / "encoder" / "config.json").is_file() else ""
    typer.echo(f"{store.resolve(reference)} is in {out}. Load it with heliostat.load('{out.absolute()}'){encoder}.")


def _summary(version: ModelVersion) -> dict[str, object]:
    return {
        "model": str(version),
        "aliases": list(version.aliases),
        "folder": str(version.folder),
        "created": version.metadata["created"],
        "scores": version.metadata["scores"],
        "num_parameters": version.metadata["num_parameters"],
    }
