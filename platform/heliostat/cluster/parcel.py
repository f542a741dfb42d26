"""What travels with a job: the platform and the plugins that it names, and the files that lie on this machine.

    parcel/                        the job's working directory on every node, first on its import path
    ├── heliostat/  heliostat-0.1.0.dist-info/
    ├── heliostat_sentiment/  heliostat_sentiment-0.1.0.dist-info/
    └── files/                     copied to HELIOSTAT_HOME/jobs/<id>/ when the job starts

Distributions travel as unpacked wheels with their dist-info, so that entry points and versions are found as after an
install. Nothing of what they need is installed: the job compares what is there with what their metadata ask for.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from heliostat.cluster.needs import plain
from heliostat.errors import ClusterError

FILES = "files"
_MOST_OF_RAY_MB = 500
JOB = "{job}"
"""Stands for the folder of the job in its command."""
_KEPT = ("METADATA", "entry_points.txt", "top_level.txt")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".git", ".gitignore", ".rayignore", ".DS_Store")


class Item(NamedTuple):
    """A file or folder of this machine that a job reads."""

    path: Path
    name: str
    """Where it comes to lie, in the folder of the job."""
    why: str
    """What names it, as `data.source`."""
    inside: tuple[Path, ...] | None = None
    """The files of a folder that are meant; None means all."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that travel."""
        if self.inside is not None:
            return self.inside
        return (
            tuple(sorted(file for file in self.path.rglob("*") if file.is_file()))
            if self.path.is_dir()
            else (self.path,)
        )

    @property
    def size_bytes(self) -> int:
        """Bytes of its files."""
        return sum(file.stat().st_size for file in self.files)


def distributions_of(plugins: Collection[str]) -> list[metadata.Distribution]:
    """The distributions of the platform and of these plugins. Raises ClusterError for one that cannot be found."""
    from heliostat.registry import entry_points

    points, found = entry_points(), {}
    for plugin in ("core", *sorted(plugins)):
        distribution = points[plugin].dist if plugin in points else None
        if distribution is None:
            raise ClusterError(f"the plugin '{plugin}' belongs to no installed distribution. Install it with pip.")
        found[distribution.name] = distribution
    return list(found.values())


def pack(folder: Path, distributions: Sequence[metadata.Distribution], items: Sequence[Item], most_mb: float) -> int:
    """Fill `folder` with what travels; its size in bytes.

    Raises ClusterError when it is more than `most_mb` MB, or when a package would hide another module.
    """
    size = sum(item.size_bytes for item in items)
    if size > most_mb * 1e6:
        named = ", ".join(f"{item.why} ({item.path}, {item.size_bytes / 1e6:,.0f} MB)" for item in items)
        raise ClusterError(
            f"{size / 1e6:,.0f} MB would travel with the job, and {most_mb:g} MB is the most: {named}. Put them where "
            "all nodes see them, in a folder that they share, name them by their path there and say --data-there; or "
            "raise --most-mb."
        )
    modules = {name: each for each in distributions for name in modules_of(each)}
    refuse_hidden({name: each.name for name, each in modules.items()})
    for distribution in distributions:
        _unpack(distribution, folder)
    for item in items:
        _copy(item, folder / FILES / item.name)
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if total > _MOST_OF_RAY_MB * 1e6:
        raise ClusterError(
            f"{total / 1e6:,.0f} MB would travel with the job, and Ray takes {_MOST_OF_RAY_MB} MB at most. Put data "
            "where all nodes see them (--data-there), or take what is installed there (--installed)."
        )
    return total


def _unpack(distribution: metadata.Distribution, folder: Path) -> None:
    """Copy the packages of an installed distribution, editable or not, and what of its dist-info says anything."""
    for name in modules_of(distribution):
        spec = importlib.util.find_spec(name)
        if spec is None or not (spec.submodule_search_locations or spec.origin):
            raise ClusterError(f"the package '{name}' of {distribution.name} cannot be found. Install it again.")
        if spec.submodule_search_locations:
            shutil.copytree(next(iter(spec.submodule_search_locations)), folder / name, ignore=_LEFT_OUT)
        else:
            shutil.copy(str(spec.origin), folder / f"{name}.py")
    info = folder / f"{distribution.name.replace('-', '_')}-{distribution.version}.dist-info"
    info.mkdir()
    for name in _KEPT:
        text = distribution.read_text(name)
        if text is not None:
            (info / name).write_text(text, encoding="utf-8")


def modules_of(distribution: metadata.Distribution) -> set[str]:
    """The top-level modules of a distribution: as it says, or else as its files or its entry points do."""
    said = (distribution.read_text("top_level.txt") or "").split()
    if said:
        return set(said)
    files = [file.parts for file in distribution.files or ()]
    found = {parts[0].removesuffix(".py") for parts in files if len(parts) > 1 or parts[0].endswith(".py")}
    found = {name for name in found if name.isidentifier() and not name.startswith("__")}
    return found or {point.module.partition(".")[0] for point in distribution.entry_points}


def refuse_hidden(modules: Mapping[str, str]) -> None:
    """Raise ClusterError when a module, first on a job's import path, would hide another of its name.

    `modules` are those that travel, each with the name of its distribution.
    """
    owners = metadata.packages_distributions()
    for name, distribution in sorted(modules.items()):
        others = [other for other in owners.get(name, ()) if plain(other) != plain(distribution)]
        if name in sys.stdlib_module_names or others:
            of = f"of {others[0]}" if others else "of Python itself"
            raise ClusterError(
                f"{distribution} brings the module '{name}', which would come first on the job's import path and hide "
                f"the '{name}' {of}. Give the package another name."
            )


def _copy(item: Item, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if item.path.is_file():
        shutil.copy(item.path, target)
        return
    for file in item.files:
        copy = target / file.relative_to(item.path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
