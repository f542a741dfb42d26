"""What a person sees of a sweep: a table that lives while it runs, and what came of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from heliostat.errors import Problem, RunError, TrainError
from heliostat.tune.watcher import SweepWatcher, View

if TYPE_CHECKING:
    from heliostat.tune import Sweep
    from heliostat.tune.records import Trial

console = Console()
_SHOWN = 8
"""Trials in the table that lives."""
_LINE_S = 10.0
"""Seconds between two lines in a log, at least."""


class LiveTable(SweepWatcher):
    """The best trials, those under way, and how long it will take."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.said = ("", 0.0)
        """Where there is no screen: the last line, and when."""

    def preparing(self, stage: str, done: int, total: int | None) -> None:
        """Show how far the preparation is."""
        self.live.update(Text(f"preparing: {stage} {done:,}" + (f" of {total:,}" if total else "")))

    def started(self, sweep_id: str, folder: Path) -> None:
        """Print the id, by which the sweep can be continued."""
        self.live.console.print(f"sweep     {sweep_id}", soft_wrap=True, highlight=False)

    def update(self, view: View) -> None:
        """Draw the table anew."""
        if self.live.console.is_terminal:
            self.live.update(Group(trial_table(_shown(view.trials), view.metric), Text(_sum(view))))
        elif self.said[0] != (line := _sum(view)) and time.monotonic() - self.said[1] >= _LINE_S:
            self.said = line, time.monotonic()
            self.live.console.print(line, soft_wrap=True, highlight=False)


def trial_table(trials: Sequence[Trial], metric: str) -> Table:
    """Trials with their settings and scores, one a line."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.values))
    table = Table(box=None, pad_edge=False)
    for heading in ("trial", "state", shown_metric(metric), "epochs", *keys):
        table.add_column(heading, justify="right" if heading in ("trial", metric, "epochs") else "left", no_wrap=True)
    for trial in trials:
        best, last = trial.best, trial.curve[-1] if trial.curve else None
        score = spell_score(best.score, metric) if best else ""
        state = trial.state + (" (as it was)" if trial.is_default else "")
        cells = [str(trial.number), state, score, f"{last.epochs:.3g}" if last else ""]
        table.add_row(*cells, *(spell(trial.values.get(key, "")) for key in keys))
    return table


def spell(value: Any) -> str:
    """A value of a setting, short."""
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def shown_metric(metric: str) -> str:
    """The heading of a score's column."""
    return f"valid/{metric}"


def spell_score(score: float, metric: str) -> str:
    """A score as the head gives it: of an error the sign is turned back."""
    return f"{-score if metric == 'loss' or metric.endswith('_error') else score:.4f}"


def tell_sweep(
    reference: str | None, settings: Sequence[str], *, trials: int | None, resume: str | None, store: bool
) -> None:
    """Search, with a table that lives; then say what came of it and store the best model."""
    from heliostat.tune import tune
    from heliostat.tune.best import stored, write_best
    from heliostat.tune.page import write_page

    values = None if reference is None else searched_values(reference, settings, trials)
    if reference is None and (settings or trials):
        raise TrainError("a sweep that goes on keeps its run, its space and its trials. Leave the others out.")
    with _live() as watcher:
        sweep = tune(values, resume=resume, watcher=watcher)
    path = write_best(sweep)
    _tell(sweep, path)
    console.print(f"page      {write_page(sweep)}", soft_wrap=True, highlight=False)
    if store:
        version = stored(sweep)
        console.print(f"stored    {version.name}:{version.version}", highlight=False)


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


@contextmanager
def _live() -> Iterator[LiveTable]:
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield LiveTable(live)


def _shown(trials: Sequence[Trial]) -> list[Trial]:
    """The trials under way, and the best of the others."""
    running = [trial for trial in trials if not trial.has_ended]
    others = [trial for trial in trials if trial.has_ended]
    others.sort(key=lambda trial: -trial.best.score if trial.best else float("inf"))
    return [*others[: max(1, _SHOWN - len(running))], *running]


def _sum(view: View) -> str:
    counts = {state: sum(trial.state == state for trial in view.trials) for state in ("finished", "stopped", "failed")}
    running = sum(not trial.has_ended for trial in view.trials)
    left = "" if view.seconds_left is None else f", about {_time(view.seconds_left)} left"
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"{sum(counts.values())} of {view.total} trials ({told or 'none yet'}), {running} running{left}"


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _tell(sweep: Sweep, path: Path) -> None:
    ranked = sorted(sweep.trials, key=lambda trial: -trial.best.score if trial.best else float("inf"))
    console.print(trial_table(ranked[:_SHOWN], sweep.metric))
    counts = {state: sum(trial.state == state for trial in sweep.trials) for state in ("finished", "stopped", "failed")}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    console.print(f"trials    {len(sweep.trials)}: {told}", highlight=False)
    console.print(f"best run  {path}", soft_wrap=True, highlight=False)
