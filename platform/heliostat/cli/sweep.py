"""A sweep from the command line to what came of it: the best run, what it gained on test, its page, its model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.cli.trials import (
    console,
    counted,
    ranked,
    shown_metric,
    so_far,
    spell_score,
    told,
    trial_table,
)
from heliostat.errors import Problem, RunError, TrainError

if TYPE_CHECKING:
    from heliostat.evaluate import Report
    from heliostat.evaluate.paired import PairedReport
    from heliostat.models import ModelVersion
    from heliostat.tune import Sweep

_SHOWN = 8
"""Trials in the closing table."""


def tell_sweep(
    reference: str | None,
    settings: Sequence[str],
    *,
    trials: int | None,
    resume: str | None,
    sweep_id: str | None = None,
    store: bool,
    test: bool = True,
) -> None:
    """Search, with a table that lives; then say what came of it and store the best model."""
    from heliostat.train.full_disk import full_disk_told
    from heliostat.tune import tune

    values = None if reference is None else searched_values(reference, settings, trials)
    if reference is None and (settings or trials or sweep_id):
        raise TrainError("a sweep that goes on keeps its id, its run, its space and its trials. Leave the others out.")
    with told() as watcher:
        sweep = tune(values, resume=resume, sweep_id=sweep_id, watcher=watcher)
    with full_disk_told(sweep.folder):
        _closed(sweep, store=store, test=test)


def _closed(sweep: Sweep, *, store: bool, test: bool) -> None:
    """Write down, say and store what came of it."""
    from heliostat.tune.best import write_best
    from heliostat.tune.gain import best_model, default_of
    from heliostat.tune.page import write_page

    path = write_best(sweep)
    _tell(sweep, default_of(sweep))
    model = best_model(sweep)
    compared = _gain(sweep, model) if test else None
    _say("best run", path)
    _say("page", write_page(sweep, compared))
    if sweep.plan.settings.refit:
        version = _refitted(sweep, model, store=store)
    else:
        version = _stored(sweep, model, compared) if store else None
    if version:
        _say("stored", f"{version.name}:{version.version}")


def searched_values(reference: str, settings: Sequence[str], trials: int | None = None) -> dict[str, Any]:
    """The plain values of the run with its section `tune`, as the file and the command line say.

    A space on the command line takes the place of the file's. Raises RunError with every mistake at once.
    """
    from heliostat.run import laid
    from heliostat.run.domains import is_domain

    pairs = [each.partition("=") for each in settings]
    space = {key.strip(): text.strip() for key, sign, text in pairs if sign and is_domain(text)}
    rest = [each for each, (_, sign, text) in zip(settings, pairs, strict=True) if not (sign and is_domain(text))]
    keys = [key.strip() for key, sign, text in pairs if sign and is_domain(text)]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise RunError([Problem(key, "is searched twice. Keep one of them.") for key in twice])
    values = laid(reference, [*rest, f"tune.trials={trials}"] if trials is not None else rest)[1]
    if space:
        values["tune"] = {**(values.get("tune") or {}), "space": space}
    return values


def _say(what: str, value: object) -> None:
    console.print(f"{what:<9} {value}", soft_wrap=True, highlight=False, markup=False)


def _tell(sweep: Sweep, default: Any) -> None:
    aims, best = sweep.aims, sweep.best
    console.print(trial_table(ranked(sweep.trials)[:_SHOWN], aims, best=best))
    _say("trials", f"{len(sweep.trials)}: {counted(sweep.trials)}")
    for reason, count in Counter(trial.reason for trial in sweep.trials if trial.state == "failed").most_common(3):
        _say("failed", f"{count}: {reason}")
    if len(aims) > 1:
        _tell_front(sweep)
    words = ", ".join(f"{shown_metric(name)} {spell_score(value, name)}" for name, value in so_far(best, aims))
    _say("best", f"trial {best.number}: {words}")
    if default and default.best and best.best and default.number != best.number:
        (_, score), *_ = so_far(default, aims)
        gap = best.best.score - default.best.score
        luck = f"chosen among {len(sweep.trials)} on these rows, so partly luck"
        apart = f"{abs(gap):.4f} {'worse' if gap > 0 else 'better'} ({luck})" if gap else "the same"
        words = f"{spell_score(score, sweep.metric)}, {apart}"
        _say("as it was", f"trial {default.number}: {shown_metric(sweep.metric)} {words}")


def _tell_front(sweep: Sweep) -> None:
    from heliostat.tune.objectives import front

    found = front(sweep.trials, sweep.aims)
    table = trial_table(found, sweep.aims, best=sweep.best)
    table.title, table.title_justify, table.title_style = "trials that no other beats in everything", "left", "italic"
    console.print(table)
    if len(found) > 1:
        _say("", "best is the one nearest to the best of each, on the scale of these trials.")


def _gain(sweep: Sweep, model: Path) -> PairedReport | None:
    """Say what the search has gained on the test split, which chose nothing."""
    from heliostat.cli.compare import score_table
    from heliostat.cli.scored import Bar
    from heliostat.cli.story import bars
    from heliostat.tune.gain import gain, why_unknown

    reason = why_unknown(sweep)
    if reason:
        _say("on test", reason)
        return None
    with bars() as progress:
        report = gain(sweep, model, Bar(progress))
    console.print(score_table(report, f"on {report.rows:,} {report.rows_name} examples, which chose nothing"))
    return report


def _stored(sweep: Sweep, model: Path, compared: PairedReport | None) -> ModelVersion:
    from heliostat.tune.best import stored

    return stored(sweep, model, compared)


def _refitted(sweep: Sweep, model: Path, *, store: bool) -> ModelVersion | None:
    """Train the best run on train and valid, report it on test, and store it."""
    from heliostat.cli.story import TrainingBar, bars, report_on_test, show_scores
    from heliostat.tune.best import stored_refit
    from heliostat.tune.refit import refit

    with bars() as progress:
        result = refit(sweep, model, TrainingBar(progress))
    _say("refitted", f"{result.run_id}  {result.steps} steps on train and valid in {result.seconds:.0f} s")
    report: Report | None = report_on_test(result)
    if report:
        show_scores(report)
        _say("report", report.html)
    return stored_refit(sweep, result, report) if store else None
