"""A name -> a class, by entry point, one plugin at a time.

`sentiment.polarity` imports the plugin `sentiment` and nothing else: a neighbour whose import fails hurts nobody.
"""

from __future__ import annotations

import functools
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple, TypeVar

from heliostat.component import Component, closest
from heliostat.errors import PluginError

GROUP = "heliostat.plugins"
"""The entry-point group: name = the domain, value = a function `register(registry)`."""

IMPORT_TIMEOUT_S = 20
"""Seconds that a plugin's import may take before it counts as hanging."""

C = TypeVar("C", bound=Component)


class Registry:
    """The components of one plugin; handed to its `register` function."""

    def __init__(self, plugin: str) -> None:
        self.plugin = plugin
        self.components: dict[str, type[Component]] = {}

    def add(self, name: str, component: type[Component]) -> None:
        """Register `component` under `name`; its address is `<plugin>.<name>`.

        Raises PluginError when the name is taken, is no plain name, or the class is no component.
        """
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise PluginError(f"{self.plugin}.{name}: a component's name is lower-case letters, digits and '_'.")
        if not (isinstance(component, type) and issubclass(component, Component)):
            raise PluginError(f"{self.plugin}.{name}: {component!r} is not a component class (see heliostat.plugin).")
        if name in self.components:
            raise PluginError(f"{self.plugin}.{name}: registered twice; a name stands for one class.")
        self.components[name] = component


class PluginState(NamedTuple):
    """One line of `heliostat plugins`."""

    name: str
    distribution: str
    version: str
    components: dict[str, str]
    """Address -> kind; empty when the plugin is broken."""
    problem: str
    """Why the plugin does not load; empty when it does."""


def entry_points() -> dict[str, metadata.EntryPoint]:
    """The installed plugins by name. Nothing is imported."""
    return {point.name: point for point in metadata.entry_points(group=GROUP)}


@functools.cache
def load_plugin(name: str) -> Registry:
    """Import one plugin and return its components.

    Raises PluginError when there is no such plugin, or when its code raises, exits or hangs.
    """
    points = entry_points()
    if name not in points:
        guess = closest(name, list(points))
        hint = f"Did you mean '{guess}'?" if guess else f"Installed: {', '.join(sorted(points)) or 'none'}."
        raise PluginError(f"no plugin is named '{name}'. {hint} Install one with 'pip install -e plugins/{name}'.")
    registry = Registry(name)
    try:
        with _import_deadline(name):
            points[name].load()(registry)
    except PluginError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"the plugin '{name}' does not load: {type(error).__name__}: {error}") from error
    return registry


@contextmanager
def _import_deadline(name: str) -> Iterator[None]:
    """Turn an import that never ends into a PluginError (in the main thread, where signals arrive)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(*_: object) -> None:
        raise PluginError(f"the plugin '{name}' does not load: its import took over {IMPORT_TIMEOUT_S} s.")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.alarm(IMPORT_TIMEOUT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def find(address: str, base: type[C]) -> type[C]:
    """The class at `address` (`sentiment.polarity`), which must be a `base`.

    Raises PluginError naming what was probably meant.
    """
    plugin, _, name = address.partition(".")
    if not plugin or not name:
        raise PluginError(f"'{address}' is no address: it takes the form 'plugin.component', as in 'core.text'.")
    components = load_plugin(plugin).components
    fitting = {key: value for key, value in components.items() if issubclass(value, base)}
    if name in components and name not in fitting:
        raise PluginError(f"'{address}' is a {components[name].kind}, and a {base.kind} is needed here.")
    if name not in fitting:
        guess = closest(name, list(fitting))
        there = ", ".join(f"{plugin}.{key}" for key in sorted(fitting)) or "none"
        hint = f"Did you mean '{plugin}.{guess}'?" if guess else f"Its {base.kind}s: {there}."
        raise PluginError(f"the plugin '{plugin}' has no {base.kind} '{name}'. {hint}")
    return fitting[name]  # type: ignore[return-value]


def package_folder(plugin: str) -> Path | None:
    """The folder of a plugin's package (where `runs/` and `data/` lie), found without importing it."""
    point = entry_points().get(plugin)
    spec = util.find_spec(point.module.partition(".")[0]) if point else None
    return Path(spec.origin).parent if spec and spec.origin else None


_PROBE = """
import json, sys
from heliostat.registry import load_plugin
registry = load_plugin(sys.argv[1])
plugin = registry.plugin
print("\\n" + json.dumps({f"{plugin}.{name}": cls.kind for name, cls in registry.components.items()}))
"""


def survey() -> list[PluginState]:
    """Load every installed plugin in a process of its own; a broken one is listed with its reason."""
    points = sorted(entry_points().items())
    probes = [
        subprocess.Popen([sys.executable, "-c", _PROBE, name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name, _ in points
    ]
    return [_state(point, probe) for (_, point), probe in zip(points, probes, strict=True)]


def _state(point: metadata.EntryPoint, probe: subprocess.Popen[str]) -> PluginState:
    import json

    distribution = point.dist
    name, version = (distribution.name, distribution.version) if distribution else ("?", "?")
    try:
        out, err = probe.communicate(timeout=IMPORT_TIMEOUT_S + 5)
    except subprocess.TimeoutExpired:
        probe.kill()
        probe.communicate()
        return PluginState(point.name, name, version, {}, f"its import took over {IMPORT_TIMEOUT_S} s")
    try:
        return PluginState(point.name, name, version, dict(json.loads(out.strip().splitlines()[-1])), "")
    except (IndexError, ValueError):
        reason = (err.strip().splitlines() or ["it ended the process without a word"])[-1]
        return PluginState(point.name, name, version, {}, reason.removeprefix("heliostat.errors.PluginError: "))
