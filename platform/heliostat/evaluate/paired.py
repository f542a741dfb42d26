"""Two models on the same rows: every metric of both, their difference with a paired interval, and where they differ.

`compare.json` (schema 1; keys are only ever added):

    schema         1
    first, second  what the two were called
    rows_name, rows    what they answered, and how many examples
    primary        the metric by which the first chose its best checkpoint
    interval       {level, resamples, seed, method}
    scores         {"first": {metric: {value, low, high, left_out}}, "second": {...}}
    differences    {metric: {value, low, high, left_out, p_value}}, first minus second on the same resamples
    disagreements  {num_differing, right: {first, second, neither},
                    shown: [{id, distance, target, first, second, right, text}]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from heliostat.component import Row
from heliostat.errors import DataError
from heliostat.evaluate.disagreements import Disagreements, disagreements
from heliostat.evaluate.evaluation import Answers, Progress, answer, by_class, drawn, make_folder, primary_of
from heliostat.evaluate.intervals import LEVEL, SEED, Interval, compare
from heliostat.evaluate.report import plain
from heliostat.evaluate.table import MODEL, tabulate
from heliostat.plugin import Metric

_OTHER = "second"


class Side(NamedTuple):
    """One of two models, and the rows that it would be scored on."""

    name: str
    answers: Answers
    ids: Sequence[int]
    examples: Sequence[Row]
    """In the order of `ids`."""


@dataclass(frozen=True)
class PairedReport:
    """Two models on the same rows."""

    first: str
    second: str
    rows_name: str
    rows: int
    primary: str
    scores: Mapping[str, Mapping[str, Interval]]
    """Of `first` and `second`."""
    differences: Mapping[str, Interval]
    """First minus second, on the same resamples."""
    p_values: Mapping[str, float]
    resamples: int
    created: str
    disagreements: Disagreements
    folder: Path
    unit: str = "examples"
    """What a resample draws: examples, or groups of them that the split keeps together."""
    by_class: Sequence[str] = ()
    """The metrics that score one class each."""

    @property
    def html(self) -> Path:
        """The page for people."""
        return self.folder / "compare.html"

    @property
    def json(self) -> Path:
        """The same for programs."""
        return self.folder / "compare.json"

    @property
    def table(self) -> Path:
        """Both models' predictions; those of the second behind `second_`."""
        return self.folder / "predictions.parquet"

    def values(self) -> dict[str, Any]:
        """The content of `compare.json`."""
        return {
            "schema": 1,
            "created": self.created,
            "first": self.first,
            "second": self.second,
            "rows_name": self.rows_name,
            "rows": self.rows,
            "primary": self.primary,
            "interval": {
                "level": LEVEL,
                "resamples": self.resamples,
                "seed": SEED,
                "method": f"percentile bootstrap over {self.unit}, paired",
            },
            "scores": {
                side: {name: score._asdict() for name, score in named.items()} for side, named in self.scores.items()
            },
            "differences": {
                name: {**gap._asdict(), "p_value": self.p_values[name]} for name, gap in self.differences.items()
            },
            "disagreements": {
                **self.disagreements._asdict(),
                "shown": [each._asdict() for each in self.disagreements.shown],
            },
        }


def compare_models(
    first: Side,
    second: Side,
    out: Path,
    *,
    rows_name: str = "test",
    resamples: int | None = None,
    on_progress: Progress | None = None,
) -> PairedReport:
    """Score two models on the same rows and write `compare.html`, `compare.json` and `predictions.parquet`.

    `resamples` of the intervals, or those of the first model's run. Raises DataError when the rows, targets or classes
    of the two are not the same, they share no metric, or `out` cannot be made; all before anything is predicted.
    """
    from heliostat.evaluate.compare_page import write_page

    second = second._replace(examples=_aligned(first, second), ids=first.ids)
    metrics = _shared_metrics(first, second)
    head = first.answers.head
    make_folder(out)
    answers = {
        name: answer(side.answers.predict, side.answers.head, side.examples, side.name, on_progress)
        for name, side in ((MODEL, first), (_OTHER, second))
    }
    predictions = tabulate(head, first.ids, first.examples, answers, ())
    count = resamples or first.answers.run.evaluate.resamples
    unit, groups = drawn(first.answers.run, first.examples)
    compared = compare(predictions.views(), metrics, count, groups=groups)
    report = PairedReport(
        first=first.name,
        second=second.name,
        rows_name=rows_name,
        rows=len(first.examples),
        primary=primary_of(first.answers.run, head, metrics),
        scores={"first": compared.scores[MODEL], "second": compared.scores[_OTHER]},
        differences=compared.differences[_OTHER],
        p_values=compared.p_values[_OTHER],
        resamples=count,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        disagreements=disagreements(head, first.ids, first.examples, answers[MODEL], answers[_OTHER]),
        folder=out,
        unit=unit,
        by_class=by_class(metrics),
    )
    predictions.write(report.table)
    text = json.dumps(plain(report.values()), ensure_ascii=False, indent=1, allow_nan=False)
    report.json.write_text(text + "\n", encoding="utf-8")
    write_page(report, head)
    return report


def _aligned(first: Side, second: Side) -> list[Row]:
    """The second model's rows in the order of the first's. Raises DataError when they are not the same rows."""
    place = {id: index for index, id in enumerate(map(int, second.ids))}
    mine = [int(id) for id in first.ids]
    both = sum(id in place for id in mine)
    if not mine or both < max(len(mine), len(place)):
        raise DataError(
            f"{first.name} and {second.name} were not scored on the same rows: {both:,} are in both, "
            f"{len(mine) - both:,} only in {first.name}'s, {len(place) - both:,} only in {second.name}'s. A paired "
            "comparison needs the same ones: train both on one source with the same data.adapter, data.split and "
            "data.limit, or score both on a labelled file that neither was trained on: --data FILE."
        )
    rows = [second.examples[place[id]] for id in mine]
    fields = first.answers.head.target_fields
    if any(
        row.get(name) != other.get(name) for row, other in zip(first.examples, rows, strict=True) for name in fields
    ):
        raise DataError(f"{first.name} and {second.name} have other targets ({', '.join(fields)}) for the same rows.")
    return rows


def _shared_metrics(first: Side, second: Side) -> dict[str, Metric]:
    """The first model's metrics that the second has too. Raises DataError when the tasks are not the same."""
    one, other = first.answers.head, second.answers.head
    if one.target_fields != other.target_fields:
        raise DataError(
            f"{first.name} answers {', '.join(one.target_fields) or 'nothing'} and {second.name} "
            f"{', '.join(other.target_fields) or 'nothing'}: there is no score that both have."
        )
    classes = [set(getattr(head, "labels", ())) for head in (one, other)]
    if classes[0] != classes[1]:
        odd = sorted(map(str, classes[0] ^ classes[1]))
        shown = ", ".join(odd[:5]) + (", …" if len(odd) > 5 else "")
        raise DataError(
            f"{first.name} and {second.name} know other classes: {shown} of one only. Give both head.labels."
        )
    theirs = other.metrics()
    metrics = {name: metric for name, metric in one.metrics().items() if name in theirs}
    if not metrics:
        raise DataError(f"{first.answers.run.head.type} and {second.answers.run.head.type} share no metric.")
    return metrics
