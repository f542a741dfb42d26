"""The name of prepared data: a hash of all that they are made of."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from heliostat.component import Component, shaping
from heliostat.data.fingerprint import sha256_of
from heliostat.data.prepared import VERSION
from heliostat.data.sources import Source
from heliostat.plugin import DataAdapter, Encoder, TaskHead
from heliostat.registry import entry_points, find
from heliostat.run import Run

CODE_VERSION = 2
"""Raised with every change in `data/` after which the same input gives other examples, splits or shards."""

_LATER = {"adapter"}
"""Settings of an encoder that shape its training alone, whatever the encoder."""


def settings_key(run: Run) -> dict[str, Any]:
    """The settings of a run that shape its data: runs that are alike in them share what is prepared."""
    settings = run.dump()["data"]
    encoder = {key: value for key, value in shaping(run.encoder.settings).items() if key not in _LATER}
    made_of: dict[str, Any] = {
        "adapter": settings["adapter"],
        "split": settings["split"],
        "limit": settings["limit"],
        "slices": sorted(set(run.evaluate.slices)),
        "encoder": {"type": run.encoder.type, **encoder},
        "head": {"type": run.head.type, **shaping(run.head.settings)},
    }
    # Named where they are set only: data that were prepared before there was cleaning stay what they are.
    return made_of | {name: settings[name] for name in ("clean", "balance") if settings[name]}


def data_key(run: Run, source: Source) -> str:
    """32 hexadecimal digits: BLAKE2b of the source's content, the settings that shape the data, the code's version."""
    named = [(run.data.adapter.type, DataAdapter), (run.encoder.type, Encoder), (run.head.type, TaskHead)]
    made_of = settings_key(run)
    made_of |= {
        "code": [CODE_VERSION, VERSION],
        "source": source.fingerprint(),
        "encoder": [made_of["encoder"], run.encoder.build().fingerprint()],
        "components": [_code(address, find(address, base)) for address, base in named],  # type: ignore[type-abstract]
    }
    if run.data.clean:
        made_of["clean"] = [made_of["clean"], _libraries(run)]
    text = json.dumps(made_of, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _libraries(run: Run) -> dict[str, str | None]:
    """The versions of what tells languages and check digits."""
    clean = run.data.clean
    needed = ["py3langid"] * bool(clean and clean.languages) + ["python-stdnum"] * bool(clean and clean.redact)
    return {name: version_of(name) for name in needed}


def version_of(distribution: str) -> str | None:
    """The installed version; None where it is not installed, which is told when it is needed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _code(address: str, component: type[Component]) -> list[Any]:
    """The version of a component's plugin, and a hash of its code: an edited plugin keeps its version."""
    distribution = entry_points()[address.partition(".")[0]].dist
    version = distribution.version if distribution else ""
    return [address, version, [sha256_of(path) for path in _files(component)]]


def _files(component: type[Component]) -> list[Path]:
    """The files that a component's answer depends on: all code of a plugin's package, or of a built-in's room."""
    files: set[Path] = set()
    for cls in inspect.getmro(component):
        package = cls.__module__.partition(".")[0]
        if cls.__module__ in ("heliostat.plugin", "heliostat.component") or package in sys.stdlib_module_names:
            continue
        origin = getattr(sys.modules.get(cls.__module__), "__file__", None)
        if origin is None:
            continue
        top = getattr(sys.modules.get(package), "__file__", None)
        if package == "heliostat" or not top or Path(top).name != "__init__.py":
            files |= set(Path(origin).parent.glob("*.py"))
        else:
            files |= set(Path(top).parent.rglob("*.py"))
    return sorted(files)
