"""A name -> a class, by entry point, one plugin at a time.

`sentiment.polarity` imports the plugin `sentiment` and nothing else: a neighbour whose import fails hurts nobody.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple, TypeVar

from heliostat.component import Component, Settings, closest
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
        if not issubclass(component.Config, Settings) or "type" in component.Config.model_fields:
            raise PluginError(f"{self.plugin}.{name}: its Config must derive from Settings and have no field 'type'.")
        missing = [key for key in dir(component) if getattr(getattr(component, key), "__isabstractmethod__", False)]
        if missing:
            raise PluginError(
                f"{self.plugin}.{name}: {component.__name__} lacks {', '.join(f'{key}()' for key in missing)}."
            )
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


def _refuse_a_shared_name(plugin: str) -> None:
    owners = {point.dist.name for point in metadata.entry_points(group=GROUP, name=plugin) if point.dist}
    if len(owners) > 1:
        names = " and ".join(sorted(owners))
        raise PluginError(f"the plugin '{plugin}' comes from two distributions, {names}. Uninstall one of them.")


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
    _refuse_a_shared_name(name)
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
    there = f"Its {base.kind}s: {', '.join(f'{plugin}.{key}' for key in sorted(fitting)) or 'none'}."
    if name in components and name not in fitting:
        raise PluginError(f"'{address}' is {_a(components[name].kind)}, and {_a(base.kind)} is needed here. {there}")
    if name not in fitting:
        guess = closest(name, list(fitting))
        hint = f"Did you mean '{plugin}.{guess}'?" if guess else there
        raise PluginError(f"the plugin '{plugin}' has no {base.kind} '{name}'. {hint}")
    return fitting[name]  # type: ignore[return-value]


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def installed(base: type[C]) -> dict[str, type[C]]:
    """Every installed component that is a `base`, by address. Plugins that do not load are left out."""
    return {
        f"{plugin}.{name}": component
        for plugin in _sound(tuple(sorted(entry_points())))
        for name, component in sorted(load_plugin(plugin).components.items())
        if issubclass(component, base)
    }


def address_of(component: type[Component]) -> str | None:
    """The address under which a class is registered, or None for a class that no installed plugin registers."""
    package = component.__module__.partition(".")[0]
    for plugin, point in entry_points().items():
        if point.module.partition(".")[0] == package:
            for name, registered in load_plugin(plugin).components.items():
                if registered is component:
                    return f"{plugin}.{name}"
    return None


def package_folder(plugin: str) -> Path | None:
    """The folder of a plugin's package (where `runs/` and `data/` lie), found without importing it."""
    point = entry_points().get(plugin)
    spec = util.find_spec(point.module.partition(".")[0]) if point else None
    return Path(spec.origin).parent if spec and spec.origin else None


_PROBE = """
import json, sys
from heliostat.errors import PluginError
from heliostat.registry import load_plugin
try:
    kinds = {f"{sys.argv[1]}.{name}": cls.kind for name, cls in load_plugin(sys.argv[1]).components.items()}
    print("\\n" + json.dumps([kinds, ""]), flush=True)
except PluginError as error:
    print("\\n" + json.dumps([{}, str(error)]), flush=True)
"""


def survey() -> list[PluginState]:
    """Load every installed plugin in a process of its own; a broken one is listed with its reason."""
    points = sorted(entry_points().items())
    deadline = time.monotonic() + IMPORT_TIMEOUT_S
    pipe = subprocess.PIPE
    probes = [
        # a session of its own, so that what a plugin starts at import ends with its probe
        subprocess.Popen(
            [sys.executable, "-c", _PROBE, name],
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
        )
        for name, _ in points
    ]
    return [_state(point, probe, deadline) for (_, point), probe in zip(points, probes, strict=True)]


@functools.cache
def _sound(plugins: tuple[str, ...]) -> list[str]:
    return [state.name for state in survey() if state.name in plugins and not state.problem]


def _state(point: metadata.EntryPoint, probe: subprocess.Popen[bytes], deadline: float) -> PluginState:
    distribution = point.dist
    name, version = (distribution.name, distribution.version) if distribution else ("?", "?")
    try:
        out, err = probe.communicate(timeout=max(0.1, deadline - time.monotonic()))
        components, problem = json.loads(out.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        os.killpg(probe.pid, signal.SIGKILL)
        probe.communicate()
        components, problem = {}, f"its import took over {IMPORT_TIMEOUT_S} s"
    except (IndexError, ValueError):  # the process ended before the probe could speak
        said = err.decode(errors="replace").strip().splitlines()
        components, problem = {}, (said or [f"its import ended the process (exit code {probe.returncode})"])[-1]
    problem = problem.removeprefix(f"the plugin '{point.name}' does not load: ")
    return PluginState(point.name, name, version, components, problem)
