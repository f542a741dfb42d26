"""What a machine lacks for Heliostat: each check says what it found and, where something is wrong, how to mend it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from heliostat.cluster import machine, surroundings
from heliostat.cluster.finding import Finding, State
from heliostat.registry import PluginState, survey

__all__ = ["Finding", "State", "diagnose"]


class Asked(NamedTuple):
    """What a diagnosis is told."""

    address: str | None = None
    """Of a cluster's dashboard; None takes that of the environment, if there is one."""
    token_file: Path | None = None
    mirror: str | None = None
    """A bucket, or another place of checkpoints, to be tried."""


def diagnose(asked: Asked = Asked()) -> Iterator[Finding]:  # noqa: B008  (a tuple)
    """Every finding, as it comes. One thing is mended on the way: who may read the files of tokens."""
    plugins = _Survey()
    checks: list[Callable[[], list[Finding]]] = [
        machine.python,
        machine.distributions,
        machine.processors,
        machine.gpus,
        machine.shared_memory,
        machine.open_files,
        machine.ports,
        surroundings.tokens,
        surroundings.home_folder,
        surroundings.disks,
        surroundings.proxies,
        lambda: surroundings.mirror(asked.mirror),
        lambda: surroundings.cluster(asked.address, asked.token_file),
        plugins.findings,
    ]
    for check in checks:
        yield from check()


class _Survey:
    """The plugins, each imported in a process of its own while the other checks run."""

    def __init__(self) -> None:
        self.states: list[PluginState] = []
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        self.states = survey()

    def findings(self) -> list[Finding]:
        """The sound ones in one line, each broken one in its own."""
        self.thread.join()
        broken = [
            Finding("plugin", State.WRONG, f"{each.name} {each.version} does not load: {each.problem}", _mended(each))
            for each in self.states
            if each.problem
        ]
        sound = [f"{each.name} {each.version}" for each in self.states if not each.problem and each.name != "core"]
        return [Finding("plugins", State.RIGHT, ", ".join(sound) or "none but the built-in one"), *broken]


def _mended(state: PluginState) -> str:
    return f"Mend it, or take it out: pip uninstall {state.distribution}."
