"""`heliostat new-plugin`: a plugin that works from its first minute, to be changed into another."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from string import Template
from typing import Annotated

import typer
from rich.console import Console

from heliostat.errors import PluginError
from heliostat.registry import entry_points

_SKELETON = Path(__file__).parent / "skeleton"


class Task(StrEnum):
    """What a new plugin predicts: a folder of templates for each."""

    classification = "classification"
    regression = "regression"
    tagging = "tagging"
    seq2seq = "seq2seq"
    ranking = "ranking"


_PLACES = {"plugin.py": "heliostat_$name/__init__.py", "tiny.yaml": "heliostat_$name/runs/tiny.yaml"}
"""Where two templates go in the new plugin; the others, its records, lie in its package."""


def command(
    name: Annotated[str, typer.Argument(help="The domain: lower-case letters, digits and '_'.")],
    folder: Annotated[Path, typer.Option(help="Where the plugin's own folder is made.")] = Path("plugins"),
    task: Annotated[Task, typer.Option(help="What the plugin predicts.")] = Task.classification,
) -> None:
    """Write a small plugin that passes `heliostat check-plugin`: an adapter, a head, a run and a few records."""
    target = folder / name
    for path, text in skeleton(name, task).items():
        file = target / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            raise PluginError(f"{file} is there already. Choose another name or --folder.")
        file.write_text(text, encoding="utf-8")
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"Wrote {target}. Next:")
    console.print(
        f"  pip install --no-deps -e {target}\n  heliostat check-plugin {name}\n  heliostat train {name}/tiny"
    )


def skeleton(name: str, task: Task = Task.classification) -> dict[str, str]:
    """The files of a new plugin: path in its folder -> text. Raises PluginError for a name that is taken or no name."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", name):
        raise PluginError(f"'{name}' is no plugin name: lower-case letters, digits and '_', a letter first.")
    if name in entry_points():
        raise PluginError(f"a plugin '{name}' is installed already. Choose another name.")
    words = {"name": name, "Title": name.replace("_", " ").capitalize(), "dashed": name.replace("_", "-")}
    templates = {"pyproject.toml": _SKELETON / "pyproject.toml.tmpl"}
    for template in sorted((_SKELETON / task).glob("*.tmpl")):
        templates[_PLACES.get(template.stem, f"heliostat_$name/{template.stem}")] = template
    return {
        Template(path).substitute(words): Template(template.read_text(encoding="utf-8")).substitute(words)
        for path, template in templates.items()
    }
