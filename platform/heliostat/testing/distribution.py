"""A plugin in a folder, installed for as long as a test lasts: no pip, no network."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import invalidate_caches
from pathlib import Path

from heliostat.registry import GROUP, load_plugin


def write_dist_info(folder: Path, plugin: str, register: str, *, version: str = "0.0.1") -> Path:
    """Declare the package in `folder` as the plugin `plugin`, the way an installed distribution does.

    `register` is the entry point, as `my_package:register`. Returns the `.dist-info` folder.
    """
    name = f"heliostat_{plugin}_in_test"
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{plugin} = {register}\n", encoding="utf-8")
    return info


@contextmanager
def on_path(folder: Path) -> Iterator[None]:
    """Let this process, and those it starts, import from `folder` and see the plugins declared in it."""
    before_path, before_environment, before_modules = list(sys.path), os.environ.get("PYTHONPATH"), set(sys.modules)
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before_environment]))
    _forget()
    try:
        yield
    finally:
        sys.path[:] = before_path
        if before_environment is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before_environment
        for name in set(sys.modules) - before_modules:
            origin = getattr(sys.modules[name], "__file__", None)
            if origin and Path(origin).is_relative_to(folder):
                del sys.modules[name]
        _forget()


def _forget() -> None:
    invalidate_caches()
    load_plugin.cache_clear()
