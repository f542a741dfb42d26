"""What the store hands on: a model version, and the reference by which it is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from heliostat.component import Name
from heliostat.errors import StoreError
from heliostat.lineage import Entry

_NAME: TypeAdapter[str] = TypeAdapter(Name)

Scores = dict[str, "Score"]


class Score(NamedTuple):
    """A score with the ends of its interval. None stands for undefined (as the AUC of a class that does not occur)."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "undefined"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def dump(self) -> dict[str, float | None]:
        """Plain values for JSON."""
        return dict(self._asdict())


def read_scores(scores: Mapping[str, Any]) -> Scores:
    """Scores from numbers, (value, low, high, ...) or mappings with those keys; what is not finite becomes None."""
    return {str(name): _score(value) for name, value in scores.items()}


def _score(value: Any) -> Score:
    if isinstance(value, Mapping):
        value = [value.get(key) for key in Score._fields]
    parts = value if isinstance(value, (tuple, list)) else [value]
    return Score(*(None if part is None or not math.isfinite(part) else float(part) for part in parts[:3]))


def check_name(name: str, what: str) -> str:
    """`name`, when it may become a path. Raises StoreError."""
    try:
        return _NAME.validate_python(name, strict=True)
    except ValidationError:
        rule = "lower-case letters, digits, '.', '_' and '-', 1 to 64 of them, with a letter or digit at both ends"
        raise StoreError(f"{str(name)[:80]!r} is no {what}: it takes {rule}.") from None


class Reference(NamedTuple):
    """What asks for a model: `sentiment@champion`, `sentiment:3`, or `sentiment` for the newest version."""

    name: str
    alias: str | None = None
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises StoreError for what has none of the three forms."""
        name, at, alias = text.partition("@")
        name, colon, number = name.partition(":")
        if at and colon:
            raise StoreError(f"{text[:80]!r} names a version and an alias. Write 'name:3' or 'name@alias'.")
        if colon and not (number.isascii() and number.isdecimal() and len(number) < 10 and int(number) > 0):
            raise StoreError(f"{text[:80]!r} has no version number after ':'. Write 'name:3', or 'name@alias'.")
        check_name(name, "model name")
        return cls(name, check_name(alias, "alias") if at else None, int(number) if colon else None)


@dataclass(frozen=True)
class ModelVersion:
    """One model in the store; its files never change."""

    name: str
    version: int
    folder: Path
    """A checkpoint that can predict and not continue."""
    metadata: dict[str, Any]
    """run, run_id, data_key, scores, baselines, parent, lineage, created, num_parameters, size_bytes, heliostat."""
    aliases: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"

    @property
    def card(self) -> Path:
        """The model card."""
        return self.folder.parent / "README.md"

    @property
    def report(self) -> Path | None:
        """The folder with the report of the evaluation; None where none was stored."""
        folder = self.folder.parent / "report"
        return folder if folder.is_dir() else None

    @property
    def lineage(self) -> list[Entry]:
        """From the first ancestor to this version; empty for one that was stored before lineage was."""
        chain: list[Entry] = self.metadata.get("lineage", [])
        return chain

    @property
    def scores(self) -> Scores:
        """The scores on the test split."""
        return read_scores(self.metadata["scores"])

    @property
    def baselines(self) -> dict[str, Scores]:
        """The scores of each baseline on the same examples."""
        return {name: read_scores(scores) for name, scores in self.metadata["baselines"].items()}
