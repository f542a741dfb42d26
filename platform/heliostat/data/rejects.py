"""Records and examples that are left out: where each lies and why, never what it says; and how many may be."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
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
    """A record, a group of them or an example that is left out."""

    place: Place
    reason: str
    """What it breaks; free of the record's own text, which may be private."""
    num_records: int = 0
    """Raw records that are lost with it; 0 where it is one of the examples that they gave."""


@dataclass
class Tally:
    """How much was read and how much of it is left out: raw records, and the examples that the others gave."""

    records: int = 0
    examples: int = 0
    rejected_records: int = 0
    rejected_examples: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Why -> how many records and examples."""

    def add(self, reject: Reject) -> None:
        """Count one reject."""
        self.reasons[reject.reason] += max(1, reject.num_records)
        self.rejected_records += reject.num_records
        self.rejected_examples += not reject.num_records

    @property
    def share(self) -> float:
        """The share of the source that is left out, alike whether a record gives an example, many, or a part of one."""
        records, examples = max(1, self.records), max(1, self.examples)
        lost = 1.0 - (1.0 - self.rejected_records / records) * (1.0 - self.rejected_examples / examples)
        return round(lost, 9)  # 3 of 300 are 0.01

    def __str__(self) -> str:
        rejected = self.rejected_records, self.rejected_examples
        if self.records == self.rejected_records + self.examples:  # a record gives an example
            return f"{sum(rejected):,} of {self.records:,} records"
        pairs = zip(rejected, (self.records, self.examples), ("records", "examples"), strict=True)
        told = " and ".join(f"{lost:,} of {whole:,} {name}" for lost, whole, name in pairs if lost)
        return told or f"0 of {self.records:,} records"


class RejectLog:
    """Writes rejects to a file as they come, one JSON object a line, and counts them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tally = Tally()

    def __enter__(self) -> Self:
        self._file = self.path.open("w", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, reject: Reject) -> None:
        """Record one reject."""
        self.tally.add(reject)
        line: dict[str, str | int] = {"file": reject.place.file, "row": reject.place.row, "reason": reject.reason}
        if reject.num_records > 1:
            line["records"] = reject.num_records
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def extend(self, rejects: Iterable[Reject]) -> None:
        """Record several."""
        for reject in rejects:
            self.add(reject)

    def flush(self) -> None:
        """Bring what was recorded to the file."""
        self._file.flush()


def check_rejects(tally: Tally, max_rejected: float, listed_in: Path, explain: Callable[[], str] | None = None) -> None:
    """Raise DataError when the share of rejects is past `max_rejected`: counts, frequent reasons, the way out.

    `explain` may find a sentence that names the one cause behind them; it is asked only then.
    """
    if tally.share <= max_rejected:
        return
    cause = explain() if explain else ""
    top = "; ".join(f"{count:,} x {reason}" for reason, count in tally.reasons.most_common(3))
    # What to type so that this share passes, rounded up to two digits.
    enough = min(0.99, math.ceil(round(100.0 * tally.share, 6)) / 100.0)
    refusal = (
        f"{tally} are rejected, more than data.max_rejected={max_rejected:g} allows. "
        f"Most frequent: {top}. Their places and reasons are listed in {listed_in}. "
        f"Mend the source or the adapter, or allow more with data.max_rejected={enough:g}."
    )
    raise DataError(f"{cause}\n{refusal}" if cause else refusal)
