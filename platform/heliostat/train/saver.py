"""Writes checkpoints in a background thread, so that training does not wait for the disk."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from heliostat import checkpoint


class Saver:
    """One checkpoint at a time; a second one waits for the first. Only rank 0 writes."""

    def __init__(
        self,
        checkpoints: Path,
        keep: int,
        *,
        is_writer: bool,
        needed: Callable[[], Collection[int]] = frozenset,
    ) -> None:
        self.checkpoints = checkpoints
        self.keep = keep
        self.is_writer = is_writer
        self.needed = needed
        self._pool: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    def write(self, step: int, snapshot: checkpoint.Snapshot, *, best_step: int | None) -> None:
        """Begin to write the checkpoint of `step`. Raises CheckpointError when the one before it failed."""
        if not self.is_writer:
            return
        self._settle()
        self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending = self._pool.submit(self._write, step, snapshot, best_step)

    def _write(self, step: int, snapshot: checkpoint.Snapshot, best_step: int | None) -> None:
        checkpoint.save(checkpoint.step_folder(self.checkpoints, step), snapshot)
        checkpoint.collect(self.checkpoints, keep=self.keep, best=best_step, needed=self.needed())

    def _settle(self) -> None:
        if self._pending:
            pending, self._pending = self._pending, None
            pending.result()

    def wait(self) -> None:
        """Return when everything is on the disk. Raises CheckpointError when it could not be written."""
        self._settle()
        if self._pool:
            self._pool.shutdown()
            self._pool = None
