"""What an evaluation found, and its machine-readable form.

`report.json` (schema 1; keys are only ever added):

    schema       1
    name         the model's name in the store
    run_id       the training that made it, or null
    created      when the report was written, ISO 8601 in UTC
    split, rows  what was evaluated on, and how many examples
    primary      the metric by which the best checkpoint was chosen
    interval     {level, resamples, seed, method}: how every interval was made
    scores       {metric: {value, low, high, left_out}}; left_out: resamples on which it was undefined; null: undefined
    baselines    {address: {metric: {...}}}, on the same rows, fitted on what the model learned from
    differences  {address: {metric: {...}}}, model minus baseline on the same resamples
    slices       [{column, value, rows, metric, scores: {model or address: {...}}}]
    mistakes     [{id, target, label, confidence, target_probability, text}], the surest first; text '' if private
    counts       {train, valid, test}: examples
    leakage      {"test/train": {checked, exact, near, pairs}, ...}: texts that stand in two splits
    signatures   {metric: text}: how it was computed, as sacreBLEU spells it
    cleaning     [{step, examples, effect, times}]: what each step of data.clean and data.balance touched
    run          the resolved run, with the keys of a run file
    drift        [{field, psi, most, is_target}]: how far each field has moved from the train split
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from heliostat.evaluate.drift import Drift
from heliostat.evaluate.intervals import LEVEL, SEED, Interval
from heliostat.evaluate.mistakes import Mistake
from heliostat.evaluate.slices import Slice


class SummaryRow(NamedTuple):
    """One line of a console table: a metric beside a baseline's."""

    metric: str
    model: Interval
    baseline: Interval | None
    difference: Interval | None


@dataclass(frozen=True)
class Report:
    """Scores of a model with their intervals, beside those of its baselines on the same rows."""

    name: str
    split: str
    rows: int
    primary: str
    """The metric by which the best checkpoint was chosen."""
    scores: Mapping[str, Interval]
    baselines: Mapping[str, Mapping[str, Interval]]
    """By address of the baseline."""
    differences: Mapping[str, Mapping[str, Interval]]
    """Model minus baseline on the same resamples, by address of the baseline."""
    resamples: int
    created: str
    run_id: str | None
    run: Mapping[str, Any]
    counts: Mapping[str, int]
    leakage: Mapping[str, Any]
    folder: Path
    slices: Sequence[Slice] = ()
    mistakes: Sequence[Mistake] = field(default=(), repr=False)
    drift: Sequence[Drift] = ()
    signatures: Mapping[str, str] = field(default_factory=dict)
    """How a metric was computed, as its library spells it: by name of the metric, where it says so."""
    cleaning: Sequence[Mapping[str, Any]] = ()
    """What each step of cleaning and balancing touched."""
    unit: str = "examples"
    """What a resample draws: examples, or groups of them that the split keeps together."""
    by_class: Sequence[str] = ()
    """The metrics that score one class each."""

    @property
    def html(self) -> Path:
        """The page for people."""
        return self.folder / "report.html"

    @property
    def json(self) -> Path:
        """The same for programs."""
        return self.folder / "report.json"

    @property
    def table(self) -> Path:
        """The predictions that everything was computed from."""
        return self.folder / "predictions.parquet"

    def summary_rows(self, baseline: str | None = None) -> list[SummaryRow]:
        """The scores of the whole (not those by class), the primary one first, beside one baseline (else the first)."""
        address = baseline or next(iter(self.baselines), None)
        names = [self.primary, *(name for name in overall(self.scores, self.by_class) if name != self.primary)]
        return [
            SummaryRow(
                name,
                self.scores[name],
                self.baselines[address][name] if address else None,
                self.differences[address][name] if address else None,
            )
            for name in names
            if name in self.scores
        ]

    def values(self) -> dict[str, Any]:
        """The content of `report.json`."""
        return {
            "schema": 1,
            "name": self.name,
            "run_id": self.run_id,
            "created": self.created,
            "split": self.split,
            "rows": self.rows,
            "primary": self.primary,
            "interval": {
                "level": LEVEL,
                "resamples": self.resamples,
                "seed": SEED,
                "method": f"percentile bootstrap over {self.unit}, paired for differences",
            },
            "scores": _intervals(self.scores),
            "baselines": {address: _intervals(scores) for address, scores in self.baselines.items()},
            "differences": {address: _intervals(scores) for address, scores in self.differences.items()},
            "slices": [
                {**each._asdict(), "metric": self.primary, "scores": _intervals(each.scores)} for each in self.slices
            ],
            "mistakes": [each._asdict() for each in self.mistakes],
            "counts": dict(self.counts),
            "leakage": dict(self.leakage),
            "signatures": dict(self.signatures),
            "cleaning": [dict(each) for each in self.cleaning],
            "run": dict(self.run),
            "drift": [each._asdict() for each in self.drift],
        }

    def write_json(self) -> None:
        """Write `report.json`. Numbers that are undefined become null: JSON has no NaN."""
        text = json.dumps(plain(self.values()), ensure_ascii=False, indent=1, allow_nan=False)
        self.json.write_text(text + "\n", encoding="utf-8")


def overall(names: Mapping[str, Any], by_class: Sequence[str]) -> list[str]:
    """The metrics of the whole: all but those of one class each."""
    return [name for name in names if name not in by_class]


def _intervals(scores: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: score._asdict() for name, score in scores.items()}


def plain(value: Any) -> Any:
    """The value in what JSON has: numpy's numbers as Python's, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
