"""Tells a watcher how a training goes, from what stands in the run's folder: progress each time, trouble once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from heliostat.train.beats import Listener, groups
from heliostat.train.uploads import trouble

if TYPE_CHECKING:
    from heliostat.train.launch import Watcher

_EVERY_S = 0.5


class Lookout:
    """Called a few times a second while workers train, here or elsewhere."""

    def __init__(self, watcher: Watcher, folder: Path, *, timeout_s: float) -> None:
        self.watcher = watcher
        self.folder = folder
        self.listener = Listener(folder, timeout_s)
        self.hung = ""
        """The rank that hung last, as a sentence; empty when none did."""
        self._is_out = False
        self._looked_at = 0.0
        self._generations: set[str] = set()

    def __call__(self) -> None:
        """Look once."""
        self.watcher.training(self.folder)
        now = time.monotonic()
        if now - self._looked_at < _EVERY_S:
            return
        self._looked_at = now
        self._look_at_mirror()
        self._look_at_generation()
        silent = self.listener.silent()
        if silent and silent != self.hung:
            self.watcher.warn(f"{silent}. It is ended; the workers start again if scaling.max_failures allows.")
        self.hung = silent or self.hung

    def _look_at_generation(self) -> None:
        found = groups(self.folder)
        if self._generations and found - self._generations:
            self.watcher.warn("the workers started again from the last checkpoint.")
        self._generations |= found

    def _look_at_mirror(self) -> None:
        words = trouble(self.folder)
        if words and not self._is_out:
            self.watcher.warn(f"{words} The training goes on; its checkpoints follow when it can be reached again.")
        elif self._is_out and not words:
            self.watcher.warn("the mirror can be reached again and has every checkpoint.")
        self._is_out = bool(words)
