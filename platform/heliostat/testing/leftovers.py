"""What a test that kills and tears must not leave behind: processes that nobody looks after, folders of the dead."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MARK = "HELIOSTAT_TEST_RING"
"""The environment variable by which processes are known again, whoever is their parent by then."""
_COMMAND = ["-m", "heliostat"]
_OF_THE_DEAD = (
    "runs/*/ray-*",
    "runs/*/beats/*",
    "runs/*/.probe-*",
    "runs/*/checkpoints/.*",
    "runs/*/checkpoints/*/.*",
    "prepared/.building-*",
    "prepared/.fetching-*",
)
"""What a run has while it lives, and what its next start clears away."""


@contextmanager
def marked() -> Iterator[str]:
    """A word that every process that is started within carries in its environment, and so do its children."""
    word, before = secrets.token_hex(8), os.environ.get(MARK)
    os.environ[MARK] = word
    try:
        yield word
    finally:
        os.environ.pop(MARK)
        if before is not None:
            os.environ[MARK] = before


def strays(word: str) -> list[str]:
    """Processes that carry the word and descend from this one no more, and trainings that still run, as text."""
    return _carrying(word, lambda is_ours, words: not is_ours or words[1:3] == _COMMAND)


def trainings(word: str) -> list[str]:
    """The commands of ours among them."""
    return _carrying(word, lambda _, words: words[1:3] == _COMMAND)


def _carrying(word: str, is_meant: Callable[[bool, list[str]], bool]) -> list[str]:
    import psutil

    ours = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) != word or process.status() == psutil.STATUS_ZOMBIE:
                continue
            words = process.cmdline()
        except psutil.Error:  # it has ended, or is somebody else's
            continue
        if is_meant(process.pid in ours, words):
            found.append(f"process {process.pid}: {' '.join(words)[:200]}")
    return sorted(found)


def raylets() -> set[int]:
    """The process ids of the nodes of Ray that descend from this process."""
    import psutil

    return {child.pid for child in psutil.Process().children(recursive=True) if child.name() == "raylet"}


def settled(look: Callable[[], list[str]], timeout_s: float = 240.0) -> list[str]:
    """What `look` still finds when that does not end by itself.

    After kill -9 of a driver Ray's own agents find out in a minute or two.
    """
    deadline = time.monotonic() + timeout_s
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def folders(home: Path) -> list[str]:
    """What lies in a `HELIOSTAT_HOME` and belongs to nobody who lives, and checkpoints without an end."""
    found = [path for pattern in _OF_THE_DEAD for path in home.glob(pattern)]
    halves = [path for path in home.glob("runs/*/checkpoints/step-*") if not (path / "manifest.json").exists()]
    return sorted(str(path.relative_to(home)) for path in [*found, *halves])


def scratch(folder: Path) -> list[str]:
    """What we keep in a folder for temporary files while a process lives, of processes that do live, too."""
    return sorted(str(path) for path in folder.glob("heliostat-*"))
