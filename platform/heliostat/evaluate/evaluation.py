"""Predictor + prepared data -> one table of predictions -> a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from heliostat.component import Row
from heliostat.data.split import groups_of, key_fields
from heliostat.errors import DataError, told
from heliostat.evaluate.drift import drift
from heliostat.evaluate.intervals import Groups, compare
from heliostat.evaluate.mistakes import mistakes
from heliostat.evaluate.page import write_page
from heliostat.evaluate.report import Report
from heliostat.evaluate.slices import slices
from heliostat.evaluate.table import MODEL, Predictions, check_slices, question, tabulate
from heliostat.heads.classification import Classification
from heliostat.plugin import Baseline, Metric, TaskHead
from heliostat.run import BaselineSpec, Run

if TYPE_CHECKING:
    import pandas as pd

Split = Literal["train", "valid", "test"]

PORTION = 512
"""Examples that are predicted between two words about the progress."""


class Answers(Protocol):
    """What can be evaluated: a `Predictor`, or anything else with a run, a fitted head and answers."""

    @property
    def run(self) -> Run:
        """The run that it comes from."""
        ...

    @property
    def head(self) -> TaskHead:
        """The head, fitted."""
        ...

    def predict(self, examples: Sequence[Row], /) -> list[Row]:
        """One row an example, in order."""
        ...


class Examples(Protocol):
    """What is read of prepared data."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Examples of each split."""
        ...

    def examples(self, split: Split, /) -> Iterator[Row]:
        """The examples of a split in the order of its shards."""
        ...

    def shards(self, split: Split, /) -> Any:
        """The shards of a split, whose `ids` are in the same order."""
        ...

    def leakage(self) -> Mapping[str, Any]:
        """Counts of duplicates between splits."""
        ...

    def cleaning(self) -> Sequence[Mapping[str, Any]]:
        """What each step of cleaning touched."""
        ...


Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many of how many examples are done."""


def evaluate(
    predictor: Answers,
    prepared: Examples,
    out: Path,
    *,
    split: Split = "test",
    run: Run | None = None,
    curves: Path | None = None,
    run_id: str | None = None,
    on_progress: Progress | None = None,
    rows_name: str | None = None,
) -> Report:
    """Score a model on a split, beside its baselines, and write `report.html`, `report.json` and `predictions.parquet`.

    Baselines are fitted on what the model learned from and answer the same rows. `run` is the model's with other
    settings of what is read and shown (`data`, `evaluate`). `curves` is the `metrics.jsonl` of the training, whose
    folder is named by `run_id` where that is not given. `rows_name` is what the report calls the split, where it is not
    one of the run's own. Without a train split there are no baselines.
    Raises DataError when the split is empty, the head has no metrics, a slice's column is missing, or `out` cannot be
    made; all of it before anything is predicted.
    """
    run, head = run or predictor.run, predictor.head
    metrics = head.metrics()
    examples = list(prepared.examples(split))
    if not examples:
        raise DataError(f"there is nothing to evaluate on: the {split} split is empty. Set data.split.{split} above 0.")
    if not metrics:
        raise DataError(
            f"{predictor.run.head.type} names no metrics, so there is nothing to report: give it metrics()."
        )
    check_slices(run.evaluate.slices, examples)
    make_folder(out)
    answers = {MODEL: answer(predictor.predict, head, examples, "model", on_progress)}
    train = list(prepared.examples("train")) if prepared.counts.get("train") else []
    if train:
        also = list(prepared.examples("valid")) if run.train.learns_from == "train+valid" else []
        answers |= _of_baselines(_baselines(run, head), [*train, *also], head, examples, on_progress)
    predictions = tabulate(head, prepared.shards(split).ids, examples, answers, run.evaluate.slices)
    run_id = run_id or (curves.absolute().parent.name if curves else None)
    moved = drift(train, examples, head) if train and split != "train" else []
    report = _report(run, head, prepared, predictions, examples, metrics, rows_name or split, out, run_id)
    report = replace(report, drift=moved)
    predictions.write(report.table)
    report.write_json()
    write_page(report, head, predictions, curves)
    return report


def make_folder(out: Path) -> None:
    """Make the folder of a report. Raises DataError when that cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the report needs a folder. {told(error, out)}") from error


def _baselines(run: Run, head: TaskHead) -> dict[str, Baseline]:
    """The baselines of the run (or else of the head) by address; a second one of a type is numbered."""
    chosen = run.evaluate.baselines
    specs = [BaselineSpec.model_validate(each) for each in head.baselines] if chosen is None else chosen
    built: dict[str, Baseline] = {}
    for spec in specs:
        count = sum(name.split("#")[0] == spec.type for name in built)
        built[f"{spec.type}#{count + 1}" if count else spec.type] = spec.build()
    return built


def _of_baselines(
    baselines: Mapping[str, Baseline],
    learned: Sequence[Row],
    head: TaskHead,
    examples: Sequence[Row],
    on_progress: Progress | None,
) -> dict[str, list[Row]]:
    """The answers of each baseline, fitted on `learned`."""
    answers: dict[str, list[Row]] = {}
    for address, baseline in baselines.items():
        if on_progress:
            on_progress(address, 0, len(examples))
        baseline.fit(learned, head)
        answers[address] = answer(baseline.predict, head, examples, address, on_progress)
    return answers


def primary_of(run: Run, head: TaskHead, metrics: Mapping[str, Metric]) -> str:
    """The metric by which the best checkpoint was chosen, or else the first."""
    chosen = run.train.select or head.selects
    return chosen if chosen in metrics else next(iter(metrics))


def drawn(run: Run, examples: Sequence[Row]) -> tuple[str, Groups | None]:
    """What a resample draws, in words, and a number of each example, equal for those drawn together; None: each alone.

    Examples that the split keeps together by a key that is named are one draw: they are alike.
    """
    key = key_fields(run, examples)
    numbers = groups_of(run, examples) if key else None
    if numbers is None:
        return "examples", None
    return f"the {len(set(numbers)):,} groups of examples with equal {' and '.join(key)}", np.array(numbers)


def answer(
    predict: Callable[[Sequence[Row]], list[Row]],
    head: TaskHead,
    examples: Sequence[Row],
    name: str,
    on_progress: Progress | None,
) -> list[Row]:
    """The answers to the fields that the head takes, in portions."""
    asked = [question(head, example) for example in examples]
    answers: list[Row] = []
    for start in range(0, len(asked), PORTION):
        answers += predict(asked[start : start + PORTION])
        if on_progress:
            on_progress(name, len(answers), len(asked))
    return answers


def by_class(metrics: Mapping[str, Metric]) -> tuple[str, ...]:
    """The metrics of one class each: they name it as their `label`."""
    return tuple(name for name, metric in metrics.items() if getattr(metric, "label", None) is not None)


def _report(
    run: Run,
    head: TaskHead,
    prepared: Examples,
    predictions: Predictions,
    examples: Sequence[Row],
    metrics: Mapping[str, Metric],
    split: str,
    out: Path,
    run_id: str | None,
) -> Report:
    views: dict[str, pd.DataFrame] = predictions.views()
    count = run.evaluate.resamples
    unit, groups = drawn(run, examples)
    compared = compare(views, metrics, count, groups=groups)
    primary = primary_of(run, head, metrics)
    return Report(
        name=run.name,
        split=split,
        rows=len(examples),
        primary=primary,
        scores=compared.scores.pop(MODEL),
        baselines=compared.scores,
        differences=compared.differences,
        resamples=count,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        run_id=run_id,
        run=run.dump(),
        counts=dict(prepared.counts),
        leakage=dict(prepared.leakage()),
        folder=out,
        slices=[
            each
            for column in run.evaluate.slices
            for each in slices(views, column, metrics[primary], primary, count, groups)
        ],
        unit=unit,
        mistakes=mistakes(head, predictions, examples) if isinstance(head, Classification) else (),
        signatures={name: str(metric.signature) for name, metric in metrics.items() if hasattr(metric, "signature")},
        cleaning=list(prepared.cleaning()),
        by_class=by_class(metrics),
    )
