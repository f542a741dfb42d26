"""A sweep under way: it proposes, starts, listens, stops and writes down."""

from __future__ import annotations

import json
import shutil
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from heliostat import checkpoint
from heliostat.data.key import settings_key
from heliostat.data.prepared import Prepared
from heliostat.errors import Stopped, TrainError
from heliostat.lineage import Entry
from heliostat.run import MEASURED, Run, parent_address
from heliostat.train.ancestry import ancestors_of, note_ancestors
from heliostat.train.policy import Continue, Stop
from heliostat.tune.objectives import chosen, kept
from heliostat.tune.plan import Plan
from heliostat.tune.policy import hopeless, seconds_left
from heliostat.tune.records import SweepFolder, Trial
from heliostat.tune.study import Study
from heliostat.tune.trials import Ended, Event, Failed, Order, Trials, Validated
from heliostat.tune.watcher import SweepWatcher, View


class Sweep(NamedTuple):
    """A sweep that is over."""

    id: str
    folder: Path
    plan: Plan
    metric: str
    """The validation score that trials were compared by."""
    trials: tuple[Trial, ...]
    best: Trial
    checkpoint: Path
    """The best checkpoint of the best trial."""
    prepared: Path
    metrics: tuple[str, ...] = ()
    """All that trials were compared by, `metric` first."""


class Driver:
    """One sweep under way."""

    def __init__(
        self,
        plan: Plan,
        folder: SweepFolder,
        places: Trials,
        watcher: SweepWatcher,
        prepared: Prepared,
        metric: str,
        epochs: float,
    ) -> None:
        self.plan, self.folder, self.places, self.watcher = plan, folder, places, watcher
        self.metrics = (metric, *plan.settings.metrics[1:])
        self.metric = metric
        self.concurrent = places.free
        self.trials = {trial.number: trial for trial in folder.read()}
        # Whoever goes on draws otherwise than before, or it would propose the same points again.
        self.study = Study(plan.space, plan.settings, epochs=epochs, seed=plan.settings.seed + len(self.trials))
        self.prepared = {_data_of(plan.run): prepared.folder}
        self.waiting = deque(number for number, trial in self.trials.items() if not trial.has_ended)
        self.since: dict[int, float] = {}
        """When each trial under way began, less what it had taken before."""
        self.given_up: dict[int, str] = {}
        self.ancestors: dict[str | None, list[Entry]] = {}
        self.started = time.monotonic()

    def drive(self, wishes: list[bool]) -> None:
        """Run every trial that is left. Raises Stopped when somebody wishes so, TrainError when nothing can work."""
        for trial in self.trials.values():
            self.study.replay(trial)
        while True:
            if wishes:
                raise Stopped(f"stopped with {self._ended()} of {self.plan.total} trials done; they are kept.")
            while self.places.free and (number := self._next()) is not None:
                self._begin(number)
            if not self.since:
                return
            for event in self.places.events(0.2):
                self._take(event)
            self.watcher.update(self.view())

    def view(self) -> View:
        """The sweep as it stands."""
        now, trials = time.monotonic(), tuple(self.trials.values())
        under_way = sum(now - since for since in self.since.values())
        left = seconds_left(trials, self.plan.total, self.concurrent, under_way)
        return View(trials, self.plan.total, self.concurrent, self.metric, left, self.metrics)

    def result(self) -> Sweep:
        """What came of it. Raises TrainError when no trial has validated."""
        best = chosen(self.trials.values(), self.metrics)
        if best is None or best.best is None:
            errors = {trial.reason for trial in self.trials.values() if trial.state == "failed"}
            raise TrainError(f"no trial came to a validation: {'; '.join(sorted(errors)[:3]) or 'none began'}.")
        found = best_checkpoint(self.folder, best)
        if found is None:
            raise TrainError(f"trial {best.number} is the best and was stopped before its first checkpoint.")
        prepared = self._prepared(self.plan.space.run(best.values))
        trials, metrics = tuple(self.trials.values()), self.metrics
        return Sweep(self.folder.id, self.folder.folder, self.plan, self.metric, trials, best, found, prepared, metrics)

    def _prepared(self, run: Run) -> Path:
        """The data of a trial, which an earlier driver may have seen to its end."""
        from heliostat.ingest import prepare

        return self.prepared.get(_data_of(run)) or prepare(run).folder

    def _next(self) -> int | None:
        """The number of the next trial, its record written; None when there is none."""
        if self._is_late():
            return None
        if self.waiting:
            return self.waiting.popleft()
        if len(self.trials) >= self.plan.total:
            return None
        default = self.plan.space.default(self.plan.run) if not self.trials else None
        values = default if default is not None else self.study.propose()
        if values is None:
            return None
        trial = Trial(max(self.trials, default=-1) + 1, values, is_default=default is not None)
        self.study.begin(trial.number, values)
        self._keep(trial)
        return trial.number

    def _begin(self, number: int) -> None:
        trial, run = self.trials[number], self.plan.space.run(self.trials[number].values)
        folder = self.folder.run_folder(number)
        if not (folder / "run.json").is_file():
            folder.mkdir(exist_ok=True)
            note_ancestors(folder, self._ancestors(run))
            (folder / "run.json").write_text(json.dumps(run.dump(), indent=1, ensure_ascii=False), encoding="utf-8")
        self.since[number] = time.monotonic() - trial.seconds
        measures = tuple(name for name in self.metrics if name in MEASURED)
        self.places.begin(Order(number, run, folder, self.prepared.get(_data_of(run)), measures))

    def _ancestors(self, run: Run) -> list[Entry]:
        """What the run goes on from; a parent's hashes are computed once a sweep."""
        address = parent_address(run)
        if address not in self.ancestors:
            self.ancestors[address] = ancestors_of(run)
        return self.ancestors[address]

    def _take(self, event: Event) -> None:
        if isinstance(event, Validated):
            decision = self._judged(event)
            self.places.answer(event.number, decision)
            return
        trial = replace(self.trials[event.number], seconds=round(time.monotonic() - self.since.pop(event.number), 3))
        if isinstance(event, Failed):
            self._end(replace(trial, state="failed", reason=event.error))
            (self.folder.run_folder(event.number) / "error.txt").write_text(
                event.trace or event.error, encoding="utf-8"
            )
            if error := hopeless(self.trials.values(), self.concurrent, self.plan.total):
                raise TrainError(f"every trial so far has ended with the same error: {error}")
            return
        self.prepared[_data_of(self.plan.space.run(trial.values))] = event.prepared
        self._end(_ended(trial, event, self.given_up.pop(event.number, None)))

    def _judged(self, event: Validated) -> Continue | Stop:
        """Note a validation, and say whether the trial goes on. The run as it stands is never stopped: the others are
        held against it."""
        trial = self.trials[event.number].with_point(event.point, event.row)
        self._keep(replace(trial, seconds=round(time.monotonic() - self.since[event.number], 3)))
        decision = self.study.judge(event.number, event.point)
        if event.point.progress >= 1.0:
            return Continue()
        if self._is_late():
            decision = Stop(f"the sweep's time of {self.plan.settings.time_s:g} s is over")
        elif trial.is_default:
            decision = Continue()
        if isinstance(decision, Stop):
            self.given_up[event.number] = decision.reason
        return decision

    def _end(self, trial: Trial) -> None:
        """Keep a trial for good; of checkpoints the best trial's stay, and those of the run as it stood."""
        before = kept(self.trials.values(), self.metrics)
        self.study.end(trial)
        self._keep(trial)
        for number in (before | {trial.number}) - kept(self.trials.values(), self.metrics):
            with suppress(OSError):
                shutil.rmtree(self.folder.run_folder(number) / "checkpoints")

    def _keep(self, trial: Trial) -> None:
        self.trials[trial.number] = trial
        self.folder.write(trial)

    def _ended(self) -> int:
        return sum(trial.has_ended for trial in self.trials.values())

    def _is_late(self) -> bool:
        budget = self.plan.settings.time_s
        return budget is not None and time.monotonic() - self.started > budget


def best_checkpoint(folder: SweepFolder, trial: Trial) -> Path | None:
    """The checkpoint of a trial's best validation, or the newest where that was the one after which it was given up."""
    checkpoints = folder.run_folder(trial.number) / "checkpoints"
    found = checkpoint.step_folder(checkpoints, trial.best.step) if trial.best else None
    return found if found and found.is_dir() else checkpoint.newest(checkpoints)


def _ended(trial: Trial, event: Ended, given_up: str | None) -> Trial:
    trial = replace(trial, costs=dict(event.costs))
    if given_up is not None:
        return replace(trial, state="stopped", reason=given_up)
    return replace(trial, state="finished", reason=event.reason)


def _data_of(run: Run) -> str:
    """What of a run shapes its data: runs that are alike in it share them."""
    return json.dumps(settings_key(run), sort_keys=True)
