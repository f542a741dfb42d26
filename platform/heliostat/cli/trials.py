"""The trials of a sweep as a person sees them: a table that lives while it runs, or a line a trial in a log."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from heliostat.run import MEASURED
from heliostat.tune.told import told as told_of
from heliostat.tune.watcher import SweepWatcher, View

if TYPE_CHECKING:
    from heliostat.tune.records import Aim, Exploit, Trial

console = Console()
_SHOWN = 8
"""Trials in the table that lives."""
_STYLES = {"stopped": "dim", "failed": "red", "running": "cyan"}


class LiveTable(SweepWatcher):
    """The best trials, those under way, and how long it will take."""

    def __init__(self, live: Live) -> None:
        self.live = live

    def preparing(self, stage: str, done: int, total: int | None) -> None:
        """Show how far the preparation is."""
        self.live.update(Text(f"preparing: {stage} {done:,}" + (f" of {total:,}" if total else "")))

    def started(self, sweep_id: str, folder: Path) -> None:
        """Print the id, by which the sweep can be continued."""
        self.live.console.print(f"sweep     {sweep_id}", soft_wrap=True, highlight=False)

    def exploited(self, exploit: Exploit) -> None:
        """Print who goes on from whom, with which settings."""
        self.live.console.print(f"exploit   {told_of(exploit)}", soft_wrap=True, highlight=False, markup=False)

    def update(self, view: View) -> None:
        """Draw the table anew."""
        table = trial_table(
            shown(view.trials), aims_of(view), width=self.live.console.width, best=leader_of(view.trials)
        )
        self.live.update(Group(table, Text(_sum(view))))


class Lines(SweepWatcher):
    """A line for each trial that has ended, where nobody looks on: in a log, behind a pipe."""

    def __init__(self) -> None:
        self.told: set[int] = set()

    def started(self, sweep_id: str, folder: Path) -> None:
        """Print the id, by which the sweep can be continued."""
        console.print(f"sweep     {sweep_id}", soft_wrap=True, highlight=False)

    def exploited(self, exploit: Exploit) -> None:
        """Print who goes on from whom, with which settings."""
        console.print(f"exploit   {told_of(exploit)}", soft_wrap=True, highlight=False, markup=False)

    def update(self, view: View) -> None:
        """Print the trials that have ended since."""
        for trial in view.trials:
            if trial.has_ended and trial.number not in self.told:
                self.told.add(trial.number)
                line = _line(trial, aims_of(view), len(self.told), view.total)
                console.print(Text(line), soft_wrap=True, highlight=False)


@contextmanager
def told() -> Iterator[SweepWatcher]:
    """Who tells of a sweep: a table where somebody looks on, else lines."""
    if not console.is_terminal:
        yield Lines()
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield LiveTable(live)


def trial_table(
    trials: Sequence[Trial], aims: Sequence[Aim], *, width: int | None = None, best: Trial | None = None
) -> Table:
    """Trials with what they are compared by and their settings, one a line; settings that find no room are named."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.values))
    names = short_names(keys)
    before = ["trial", "state", *(shown_metric(aim.name) for aim in aims), "epochs"]
    rows = [[*_facts(trial, aims), *(spell(trial.values.get(key, "")) for key in keys)] for trial in trials]
    headings = [*before, *(names[key] for key in keys)]
    count = _fitting(headings, rows, len(before), width or console.width)
    table = Table(box=None, pad_edge=False, caption_justify="left", caption_style="dim")
    for place, heading in enumerate(headings[:count]):
        table.add_column(heading, justify="right" if 1 < place < len(before) or not place else "left", no_wrap=True)
    for trial, cells in zip(trials, rows, strict=True):
        style = "bold" if best is not None and trial.number == best.number else _STYLES.get(trial.state, "")
        table.add_row(*map(escape, cells[:count]), style=style)
    notes = ["* the run as it stood"] if any(trial.is_default for trial in trials) else []
    notes += [f"not shown: {', '.join(headings[count:])}"] if headings[count:] else []
    table.caption = "; ".join(notes) or None
    return table


def _fitting(headings: Sequence[str], rows: Sequence[Sequence[str]], least: int, width: int) -> int:
    """How many columns find room, `least` of them whatever happens."""
    needed, count = 0, 0
    for place, heading in enumerate(headings):
        needed += max(map(len, [heading, *(row[place] for row in rows)])) + (2 if place else 0)
        if needed > width and place >= least:
            break
        count = place + 1
    return count


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Each dotted key by as many of its last parts as tell it from the others: `train.lr` is `lr`."""
    names = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[-length:]) for length in range(1, len(parts) + 1)]
        others = [f".{other}" for other in keys if other != key]
        names[key] = next((end for end in ends if not any(other.endswith(f".{end}") for other in others)), key)
    return names


def _facts(trial: Trial, aims: Sequence[Aim]) -> list[str]:
    last = trial.curve[-1] if trial.curve else None
    scores = [spell_score(value, name) for name, value in so_far(trial, aims)]
    mark = "*" if trial.is_default else " "
    return [f"{trial.number}{mark}", trial.state, *scores, f"{last.epochs:.3g}" if last else ""]


def aims_of(view: View) -> tuple[Aim, ...]:
    """All that trials are compared by, in whatever a sweep has told."""
    from heliostat.tune.records import Aim

    return view.aims or (Aim(view.metric, view.is_error),)


def so_far(trial: Trial, aims: Sequence[Aim]) -> list[tuple[str, float | None]]:
    """What the trial has reached so far in all that it is compared by."""
    from heliostat.tune.objectives import value_of

    first, *others = aims
    score = first.sign * trial.best.score if trial.best else None
    return [(first.name, score), *((aim.name, value_of(trial, aim.name)) for aim in others)]


def leader_of(trials: Sequence[Trial]) -> Trial | None:
    """The trial that leads by its score."""
    from heliostat.tune.policy import leader

    return leader(trials)


def shown(trials: Sequence[Trial]) -> list[Trial]:
    """The trials under way, and the best of the others."""
    running = [trial for trial in trials if not trial.has_ended]
    return [*ranked([trial for trial in trials if trial.has_ended])[: max(1, _SHOWN - len(running))], *running]


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Finished trials by their scores, then those that were stopped, then those that failed."""
    order = {"finished": 0, "stopped": 1, "running": 2, "failed": 3}
    return sorted(trials, key=lambda trial: (order[trial.state], -trial.best.score if trial.best else 0.0))


def spell(value: Any) -> str:
    """A value of a setting, short."""
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def shown_metric(metric: str) -> str:
    """The heading of a score's column."""
    return metric if metric in MEASURED else f"valid/{metric}"


def spell_score(value: float | None, metric: str) -> str:
    """A score or a cost as the head or the scales give it; nothing for what is not known."""
    if value is None:
        return ""
    return f"{value:,.0f}" if metric == "parameters" else f"{value:.2f}" if metric in MEASURED else f"{value:.4f}"


def counted(trials: Sequence[Trial]) -> str:
    """How many came to which end."""
    counts = {state: sum(trial.state == state for trial in trials) for state in ("finished", "stopped", "failed")}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none yet"


def _sum(view: View) -> str:
    ended = sum(trial.has_ended for trial in view.trials)
    left = "" if view.seconds_left is None else f", about {_time(view.seconds_left)} left"
    told = f"{ended} of {view.total} trials ({counted(view.trials)}), {len(view.trials) - ended} running{left}"
    return f"{told}\n{_so_far(view)}" if _so_far(view) else told


def _so_far(view: View) -> str:
    """The best trial beside the run as it stood."""
    best, default = leader_of(view.trials), next((trial for trial in view.trials if trial.is_default), None)
    if best is None or best.best is None or default is None or default.best is None or default.state != "finished":
        return ""
    (_, score), *_ = so_far(best, aims_of(view)[:1])
    gain = best.best.score - default.best.score
    lead = f", {gain:.4f} better than the run as it stood" if gain > 0 else ": the run as it stood"
    return f"best so far: trial {best.number}, {shown_metric(view.metric)} {spell_score(score, view.metric)}{lead}"


def _line(trial: Trial, aims: Sequence[Aim], count: int, total: int) -> str:
    scores = " ".join(
        f"{shown_metric(name)} {spell_score(value, name)}" for name, value in so_far(trial, aims) if value is not None
    )
    names: Mapping[str, str] = short_names(list(trial.values))
    values = " ".join(f"{names[key]}={spell(value)}" for key, value in trial.values.items())
    what = trial.reason if trial.state == "failed" else scores
    epochs = f" after {trial.curve[-1].epochs:.3g} epochs" if trial.curve else ""
    run = " (the run as it stood)" if trial.is_default else ""
    return f"{count}/{total} trial {trial.number}{run} {trial.state}{epochs}: {what}  {values}"


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
