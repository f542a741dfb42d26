"""Requirements of distributions, held against what this Python has."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path


def plain(name: str) -> str:
    """The name of a distribution as all its spellings have it."""
    return name.lower().replace("_", "-").replace(".", "-")


def requirements_in(folder: Path) -> Iterator[str]:
    """What the distributions in `folder` need beside each other."""
    found = list(metadata.distributions(path=[str(folder)]))
    own = {plain(each.name) for each in found}
    for each in found:
        yield from (need for need in requirements_of(each) if _name(need) not in own)


def requirements_of(distribution: metadata.Distribution) -> Iterator[str]:
    """What a distribution needs, and which Python."""
    if python := distribution.metadata["Requires-Python"]:
        yield f"python{python}"
    yield from distribution.requires or ()


def _name(requirement: str) -> str:
    from packaging.requirements import Requirement

    return plain(Requirement(requirement).name)


def lacking(requirements: Iterable[str]) -> Iterator[str]:
    """A sentence for each requirement that this Python does not meet; those of extras are left out."""
    from packaging.requirements import Requirement

    for text in dict.fromkeys(requirements):
        need = Requirement(text)
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        wanted = f"{need.name}{need.specifier} is needed."
        try:
            there = platform.python_version() if need.name == "python" else metadata.version(need.name)
        except metadata.PackageNotFoundError:
            yield f"{need.name} is not there; {wanted}"
            continue
        if not need.specifier.contains(there, prereleases=True):
            yield f"{need.name} is {there}; {wanted}"
