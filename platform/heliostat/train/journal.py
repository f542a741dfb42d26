"""What a training says about itself: `metrics.jsonl` for the report and the progress bar, TensorBoard for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """Writes rows of metrics, keyed by step; only rank 0 has one that writes."""

    def __init__(self, folder: Path, *, is_writer: bool) -> None:
        self.folder = folder
        self.is_writer = is_writer
        self._file: Any = None
        self._board: Any = None

    def open(self, step: int) -> None:
        """Start writing after `step`: rows beyond it, left by a process that died, are dropped."""
        if not self.is_writer:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "metrics.jsonl"
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, row: Mapping[str, float | int]) -> None:
        """Add one row; it has a `step`."""
        if not self.is_writer:
            return
        self._file.write(json.dumps({key: _rounded(value) for key, value in row.items()}) + "\n")
        board = self._tensorboard()
        for key, value in row.items():
            if key not in {"step", "epoch", "progress"}:
                board.add_scalar(key if "/" in key else f"train/{key}", value, row["step"])

    def close(self) -> None:
        """Flush everything."""
        if self._file:
            self._file.close()
        if self._board:
            self._board.close()

    def _tensorboard(self) -> Any:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.folder / "tensorboard"))  # type: ignore[no-untyped-call]
        return self._board


def _lines(path: Path) -> list[str]:
    """The whole lines of a journal; a half-written last one is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1].splitlines()


def _rounded(value: float | int) -> float | int:
    return value if isinstance(value, int) else float(f"{float(value):.6g}")
