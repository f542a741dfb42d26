"""What a training says about itself: `metrics.jsonl` for the report and the progress bar, trackers for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heliostat.data.fingerprint import write_whole
from heliostat.run import Run
from heliostat.train.tracking import Ending, Tracker, build_trackers


class Journal:
    """Writes rows of metrics, keyed by step; only rank 0 has one that writes. Without a run it tells no tracker."""

    def __init__(self, folder: Path, run: Run | None = None, *, is_writer: bool) -> None:
        self.folder = folder
        self.run = run
        self.is_writer = is_writer
        self.validated: set[int] = set()
        """The steps whose validation stands in the journal."""
        self._trackers: list[Tracker] = []
        self._file: Any = None

    def open(self, step: int) -> None:
        """Start writing after `step`: rows beyond it, left by a process that died or rolled back, are dropped.

        Raises TrainError when a tracker is not installed.
        """
        if not self.is_writer:
            return
        self.close()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "metrics.jsonl"
        kept = [line for line in whole_lines(path) if json.loads(line)["step"] <= step]
        self.validated = {row["step"] for row in map(json.loads, kept) if _is_validation(row)}
        text = "".join(line + "\n" for line in kept)
        if path.exists() and path.read_text(encoding="utf-8") != text:
            write_whole(path, text.encode())  # or else a full disk takes all rows with it
        self._file = path.open("a", encoding="utf-8", buffering=1)
        if self.run is not None:
            self._trackers = build_trackers(self.run.train.trackers)
            for tracker in self._trackers:
                tracker.open(self.folder, self.run, step)

    def write(self, row: Mapping[str, float | int]) -> None:
        """Add one row; it has a `step`."""
        if not self.is_writer:
            return
        self._file.write(json.dumps({key: _rounded(value) for key, value in row.items()}) + "\n")
        if _is_validation(row):
            self.validated.add(int(row["step"]))
        values = {
            key if "/" in key else f"train/{key}": float(value)
            for key, value in row.items()
            if key not in {"step", "epoch", "progress"}
        }
        for tracker in self._trackers:
            tracker.log(int(row["step"]), values)

    def close(self, ending: Ending = "finished") -> None:
        """Flush everything, and tell the trackers how the training ended."""
        if self._file:
            self._file.close()
            self._file = None
        while self._trackers:
            self._trackers.pop().close(ending)


def whole_lines(path: Path) -> list[str]:
    """The whole lines of a journal; a half-written last one is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1].splitlines()


def _is_validation(row: Mapping[str, float | int]) -> bool:
    return any(name.startswith("valid/") for name in row)


def _rounded(value: float | int) -> float | int:
    return value if isinstance(value, int) else float(f"{float(value):.6g}")
