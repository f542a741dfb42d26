"""Signs of life: each worker says once a second that it lives and how far it came, so that a silent one has a name."""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

INTERVAL_S = 1.0
_FOLDER = "beats"


class Beats:
    """The signs of life of one worker, written by a thread, so that a long step is no silence."""

    def __init__(self, folder: Path, rank: int, *, group: str = "", node: str = "") -> None:
        self.group = group
        """What the scheduler calls the resources of this worker's generation, so that they can be given back."""
        self.node = node
        """What the scheduler calls the machine."""
        self.path = folder / _FOLDER / f"rank-{rank}.json"
        self.place = (0, 0)
        """Updates begun, and whether the forward pass of the last one is through."""
        self._ended = threading.Event()

    def start(self, world_size: int) -> None:
        """Begin to write; what ranks left that are no more among `world_size` is removed."""
        self.path.parent.mkdir(exist_ok=True)
        for path in self.path.parent.glob("rank-*.json"):
            if int(path.stem.rpartition("-")[2]) >= world_size:
                path.unlink(missing_ok=True)
        threading.Thread(target=self._work, daemon=True, name="beats").start()

    def stop(self) -> None:
        """Write no more."""
        self._ended.set()

    def begin_update(self) -> None:
        """The worker is about to meet the others for an update."""
        self.place = (self.place[0] + 1, 0)

    def end_forward(self) -> None:
        """The worker has computed a loss of this update."""
        self.place = (self.place[0], 1)

    def _work(self) -> None:
        who = f"process {os.getpid()} on {socket.gethostname()}"
        count, place, moved = 0, self.place, time.monotonic()
        while True:
            if self.place != place:
                place, moved = self.place, time.monotonic()
            beat = {
                "count": count,
                "who": who,
                "group": self.group,
                "node": self.node,
                "place": list(place),
                "idle_s": time.monotonic() - moved,
            }
            with suppress(OSError):  # a full disk: the training itself says so
                self.path.write_text(json.dumps(beat), encoding="utf-8")
            count += 1
            if self._ended.wait(INTERVAL_S):
                self.path.unlink(missing_ok=True)
                return


def groups(folder: Path) -> set[str]:
    """The groups of resources that workers of the run said they have, alive or dead."""
    return _told(folder, "group")


def nodes(folder: Path) -> set[str]:
    """The nodes that workers of the run said they are on, alive or dead."""
    return _told(folder, "node")


def _told(folder: Path, key: str) -> set[str]:
    return {str(beat[key]) for text in _texts(folder).values() if (beat := _beat(text)) and beat.get(key)}


def _texts(folder: Path) -> dict[str, str]:
    """The last sign of life of each rank, by its name: of those that were not removed while they were read."""
    found = {}
    for path in sorted((folder / _FOLDER).glob("rank-*.json")):
        with suppress(OSError):
            found[path.stem] = path.read_text(encoding="utf-8")
    return found


def forget(folder: Path) -> None:
    """Remove the signs of life of workers that are no more: those that were killed could not."""
    for path in (folder / _FOLDER).glob("*.json"):
        path.unlink(missing_ok=True)


def wait_for_silence(folder: Path, at_most_s: float = math.inf) -> None:
    """Return when no worker of the run gives signs of life any more; at once where none ever did."""
    deadline = time.monotonic() + at_most_s
    before: dict[str, str] | None = None
    while (texts := _texts(folder)) != before and time.monotonic() < deadline:
        before = texts
        if texts:
            time.sleep(2.5 * INTERVAL_S)
    forget(folder)


class Silence:
    """How long no worker of a run has given a sign of life, on the reader's own clock."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self.clock = clock
        self._texts: dict[str, str] = {}
        self._since = clock()

    def seconds(self) -> float:
        """Since the last sign that was new, or since this reader began. It counts only while somebody asks."""
        now, texts = self.clock(), _texts(self.folder)
        if texts != self._texts:
            self._texts, self._since = texts, now
        return now - self._since


class Sign(NamedTuple):
    """The last sign of life of a rank, and when the reader first saw it on its own clock."""

    text: str
    seen_at: float


class Listener:
    """Names the rank that the others wait for. It compares no clocks of different machines."""

    def __init__(self, folder: Path, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self.timeout_s = timeout_s
        self.clock = clock
        self._last: dict[str, Sign] = {}

    def silent(self) -> str:
        """A sentence that names the rank that hangs; empty while none does."""
        now, signs = self.clock(), {}
        for rank, text in _texts(self.folder).items():
            before = self._last.get(rank)
            signs[rank] = before if before and before.text == text else Sign(text, now)
        self._last = signs
        return self._stopped(now) or self._behind()

    def _stopped(self, now: float) -> str:
        for rank, sign in self._last.items():
            if now - sign.seen_at > self.timeout_s:
                return f"{_name(rank, sign.text)} has given no sign of life for {self.timeout_s:g} s"
        return ""

    def _behind(self) -> str:
        """A rank that lives and stands still while another has gone on to wait for it."""
        told = {rank: beat for rank, sign in self._last.items() if (beat := _beat(sign.text))}
        places = {rank: tuple(beat["place"]) for rank, beat in told.items()}
        if len(set(places.values())) < 2 or any(beat["idle_s"] <= self.timeout_s for beat in told.values()):
            return ""
        last = min(places, key=lambda rank: places[rank])
        return f"{_name(last, self._last[last].text)} has not moved for {self.timeout_s:g} s and the others wait for it"


def _beat(text: str) -> dict[str, Any] | None:
    try:
        beat = json.loads(text)
    except ValueError:  # read while it was written
        return None
    return beat if isinstance(beat, dict) else None


def _name(rank: str, text: str) -> str:
    beat = _beat(text)
    return rank.replace("-", " ") + (f" ({beat['who']})" if beat else "")
