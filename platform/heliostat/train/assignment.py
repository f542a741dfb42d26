"""What one who scores checkpoints apart from the training is told, and what the training may ask of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol


class Assignment(NamedTuple):
    """Which checkpoints to score, and on what."""

    run: dict[str, Any]
    """The run, as plain values."""
    prepared: str
    """The folder of its prepared data."""
    folder: str
    """The folder of the run, with its checkpoints."""
    life: str
    """Which start of the training asks: what an earlier one could not score is tried again."""

    @property
    def log(self) -> Path:
        """What an evaluator says when it breaks."""
        return Path(self.folder) / "evaluator.log"


class Evaluator(Protocol):
    """A process somewhere that scores the checkpoints of a run, in their order, until the last one is scored."""

    def is_running(self) -> bool:
        """Whether it is still there."""

    def stop(self) -> None:
        """End it at once. It has nothing to lose but the score that it is computing."""
