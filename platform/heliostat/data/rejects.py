"""Records that are left out: where each lies and why, never what it says."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from heliostat.errors import DataError


class Place(NamedTuple):
    """Where a raw record lies: a file of the source and the record's number in it, from 1 (headers do not count)."""

    file: str
    row: int

    def __str__(self) -> str:
        return f"{self.file}, record {self.row}"


class Reject(NamedTuple):
    """One record that is left out."""

    place: Place
    reason: str
    """What it breaks; free of the record's own text, which may be private."""


class RejectLog:
    """Writes rejects to a file as they come, one JSON object a line, and counts them by reason."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reasons: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._file = self.path.open("w", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, reject: Reject) -> None:
        """Record one reject."""
        self.reasons[reject.reason] += 1
        line = {"file": reject.place.file, "row": reject.place.row, "reason": reject.reason}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def extend(self, rejects: Iterable[Reject]) -> None:
        """Record several."""
        for reject in rejects:
            self.add(reject)

    def flush(self) -> None:
        """Bring what was recorded to the file."""
        self._file.flush()

    @property
    def total(self) -> int:
        """Records left out so far."""
        return self.reasons.total()


def check_rejects(
    num_rejected: int,
    num_records: int,
    max_rejected: float,
    reasons: Mapping[str, int],
    listed_in: Path,
    explain: Callable[[], str] | None = None,
) -> None:
    """Raise DataError when the share of rejects is past `max_rejected`: counts, frequent reasons, the way out.

    `explain` may find a sentence that names the one cause behind them; it is asked only then.
    """
    if num_rejected <= max_rejected * num_records:
        return
    cause = explain() if explain else ""
    top = "; ".join(f"{count} x {reason}" for reason, count in list(reasons.items())[:3])
    refusal = (
        f"{num_rejected} of {num_records} records are rejected, more than data.max_rejected={max_rejected:g} allows. "
        f"Most frequent: {top}. Their places and reasons are listed in {listed_in}. "
        f"Mend the source or the adapter, or allow more with data.max_rejected={_allow(num_rejected, num_records):g}."
    )
    raise DataError(f"{cause}\n{refusal}" if cause else refusal)


def _allow(rejected: int, num_records: int) -> float:
    """The share to type so that this many pass, rounded up to two digits."""
    hundredths = -(-100 * rejected // max(1, num_records))
    return min(0.99, hundredths / 100)
