"""Writes checkpoints in a background thread, so that training does not wait for the disk."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from heliostat import checkpoint
from heliostat.train.mirror import Mirror
from heliostat.train.uploads import Uploads


class Saver:
    """One checkpoint at a time; a second one waits for the first. Only rank 0 writes."""

    def __init__(
        self,
        checkpoints: Path,
        keep: int,
        *,
        is_writer: bool,
        needed: Callable[[], Collection[int]] = frozenset,
        mirror: str | None = None,
    ) -> None:
        self.checkpoints = checkpoints
        self.keep = keep
        self.is_writer = is_writer
        self.needed = needed
        run = checkpoints.parent
        self.uploads = Uploads(run, Mirror(mirror, run.name)) if mirror and is_writer else None
        self._pending: Future[None] | None = None

    def write(self, step: int, snapshot: checkpoint.Snapshot, *, best_step: int | None) -> None:
        """Begin to write the checkpoint of `step`. Raises CheckpointError when the one before it failed."""
        if not self.is_writer:
            return
        self.settle()
        pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending = pool.submit(self._write, step, snapshot, best_step)
        # The thread ends with its work: its team of OpenMP threads would live as long as it. With more of them than
        # cores, those of the training sleep at every barrier, and small updates took 2.4 times as long.
        pool.shutdown(wait=False)

    def _write(self, step: int, snapshot: checkpoint.Snapshot, best_step: int | None) -> None:
        checkpoint.save(checkpoint.step_folder(self.checkpoints, step), snapshot)
        checkpoint.collect(self.checkpoints, keep=self.keep, best=best_step, needed=self.needed())
        if self.uploads:
            self.uploads.wake()

    def settle(self) -> None:
        """Return when the checkpoint before is on the disk. Raises CheckpointError when it could not be written."""
        if self._pending:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """As `settle`, and the mirror has what it takes: `uploads.trouble` says why where it does not."""
        try:
            self.settle()
        finally:
            if self.uploads:
                self.uploads.wake()
                self.uploads.close()
