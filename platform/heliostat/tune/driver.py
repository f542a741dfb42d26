"""A sweep under way: it proposes, starts, listens, stops and writes down."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from heliostat import checkpoint
from heliostat.data.prepared import Prepared
from heliostat.errors import Stopped, TrainError
from heliostat.lineage import Entry
from heliostat.run import MEASURED, Run, parent_address
from heliostat.train.ancestry import ancestors_of, note_ancestors
from heliostat.train.policy import Continue, Stop
from heliostat.tune.objectives import aims_of, chosen, kept
from heliostat.tune.plan import Plan, data_of
from heliostat.tune.policy import goes_on, hopeless, seconds_left
from heliostat.tune.population import check_exploits
from heliostat.tune.records import Aim, SweepFolder, Trial
from heliostat.tune.study import Study
from heliostat.tune.told import no_room
from heliostat.tune.trials import Ended, Event, Failed, Order, Trials, Validated
from heliostat.tune.turns import Turns
from heliostat.tune.watcher import SweepWatcher, View

_TURN = Stop("the turn is over")


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
    is_error: bool = False
    """Whether less of the metric is better."""
    aims: tuple[Aim, ...] = ()
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
        self.metric, self.aims = metric, aims_of(metric, plan.settings, plan.is_error)
        self.concurrent = places.free
        self.trials = {trial.number: trial for trial in folder.read()}
        # Whoever goes on draws otherwise than before, or it would propose the same points again.
        self.study = Study(
            plan.space, plan.settings, epochs=epochs, seed=plan.settings.seed + len(self.trials), aims=self.aims
        )
        self.prepared = {data_of(plan.run): prepared.folder}
        self.turns = Turns(plan, folder) if plan.settings.is_population else None
        started = () if self.turns else (number for number, trial in self.trials.items() if not trial.has_ended)
        self.waiting = deque(started)
        self.resting: set[int] = set()
        """Members of a population whose turn ends."""
        self.had: dict[int, int] = {}
        """Validations that each trial under way had when it began or went on."""
        self.deaths = Counter[int]()
        self.since: dict[int, float] = {}
        """When each trial under way began, less what it had taken before."""
        self.given_up: dict[int, str] = {}
        self.ancestors: dict[str | None, list[Entry]] = {}
        self.started = time.monotonic()

    def drive(self, wishes: list[bool]) -> None:
        """Run every trial that is left. Raises Stopped when somebody wishes so, TrainError when nothing can work."""
        self._recall()
        while True:
            if wishes:
                raise Stopped(f"stopped with {self._ended()} of {self.plan.total} trials done; they are kept.")
            if self.turns and not self.since and (not self.waiting or self._is_late()):
                self._next_turn(self.turns)
            while self.places.free and (number := self._next()) is not None:
                self._begin(number)
            if not self.since:
                return
            for event in self.places.events(0.2):
                self._take(event)
            self.watcher.update(self.view())

    def _recall(self) -> None:
        """Learn what an earlier driver knew."""
        if self.turns:
            for trial in self.turns.recovered(self.trials):
                self._keep(trial)
        for trial in self.trials.values():
            self.study.replay(trial)

    def view(self) -> View:
        """The sweep as it stands."""
        now, trials = time.monotonic(), tuple(self.trials.values())
        under_way = sum(now - since for since in self.since.values())
        left = seconds_left(trials, self.plan.total, self.concurrent, under_way, in_turns=self.turns is not None)
        return View(
            trials, self.plan.total, self.concurrent, self.metric, left, self.plan.is_error(self.metric), self.aims
        )

    def result(self) -> Sweep:
        """What came of it. Raises TrainError when no trial has validated, or no member of a population took over."""
        best = chosen(self.trials.values(), self.aims)
        if self.turns and best:
            check_exploits(list(self.trials.values()), self.folder)
        if best is None or best.best is None:
            errors = {trial.reason for trial in self.trials.values() if trial.state == "failed"}
            raise TrainError(f"no trial came to a validation: {'; '.join(sorted(errors)[:3]) or 'none began'}.")
        found = best_checkpoint(self.folder, best)
        if found is None:
            raise TrainError(f"trial {best.number} is the best and was stopped before its first checkpoint.")
        prepared = self._prepared(best)
        trials, is_error, folder = tuple(self.trials.values()), self.plan.is_error(self.metric), self.folder
        return Sweep(
            folder.id, folder.folder, self.plan, self.metric, trials, best, found, prepared, is_error, self.aims
        )

    def _prepared(self, trial: Trial) -> Path:
        """The data of a trial, which an earlier driver may have seen to its end."""
        from heliostat.ingest import prepared_once

        run = self.plan.space.run(trial.values)
        return self.prepared.get(data_of(run)) or prepared_once(run, self.folder.run_folder(trial.number)).folder

    def _next(self) -> int | None:
        """The number of the next trial, its record written; None when there is none."""
        if self._is_late():
            return None
        if self.waiting:
            return self.waiting.popleft()
        return None if self.turns else self._propose()

    def _propose(self) -> int | None:
        """The number of a new trial, its record written; None when there is none."""
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

    def _next_turn(self, turns: Turns) -> None:
        """Let the members train on that are behind; where all stand together, some first take over from others."""
        members = {number: trial for number, trial in self.trials.items() if not trial.has_ended}
        if self._is_late():
            self.waiting.clear()
            for trial in members.values():
                self._end(replace(trial, state="stopped", reason=self._time_is_over()))
            return
        while self._propose() is not None:
            pass
        members |= {number: trial for number, trial in self.trials.items() if not trial.has_ended}
        turn, due = turns.due(members)
        if turn and len(due) == len(members):
            for trial in turns.exchanged(turn, members):
                self._keep(trial)
                self.watcher.exploited(trial.exploits[-1])
            self.watcher.update(self.view())
        self.waiting.extend(due)

    def _begin(self, number: int) -> None:
        trial, run = self.trials[number], self.plan.space.run(self.trials[number].values)
        folder = self.folder.run_folder(number)
        if self.turns or not (folder / "run.json").is_file():
            folder.mkdir(exist_ok=True)
            note_ancestors(folder, self._ancestors(run))
            (folder / "run.json").write_text(json.dumps(run.dump(), indent=1, ensure_ascii=False), encoding="utf-8")
        self.since[number], self.had[number] = time.monotonic() - trial.seconds, len(trial.curve)
        measures = tuple(aim.name for aim in self.aims if aim.name in MEASURED)
        self.places.begin(Order(number, run, folder, self.prepared.get(data_of(run)), measures))

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
            self._take_failure(event, trial)
            return
        self.prepared[data_of(self.plan.space.run(trial.values))] = event.prepared
        if event.number in self.resting:
            self.resting.discard(event.number)
            self._keep(trial)
        else:
            self._end(_ended(trial, event, self.given_up.pop(event.number, None)))

    def _take_failure(self, event: Failed, trial: Trial) -> None:
        self.resting.discard(event.number)
        if event.full:  # no fault of the trial, which stays as it is and goes on when the sweep does
            raise TrainError(no_room(event.number, event.full, self.folder.id))
        if given_up := self.given_up.pop(event.number, None):  # it was ending anyway
            self._end(replace(trial, state="stopped", reason=given_up))
            return
        self.deaths[event.number] += event.is_lost
        most = self.plan.run.scaling.max_failures
        if event.is_lost and goes_on(trial, self.had[event.number], self.deaths[event.number], most):
            trial = self.turns.settled(trial) if self.turns else trial
            self._keep(trial)
            if not self.turns or len(trial.curve) == self.had[event.number]:  # or else its turn was over
                self.waiting.append(event.number)
            return
        self._end(replace(trial, state="failed", reason=event.error))
        (self.folder.run_folder(event.number) / "error.txt").write_text(event.trace or event.error, encoding="utf-8")
        if error := hopeless(self.trials.values(), self.concurrent, self.plan.total):
            raise TrainError(f"every trial so far has ended with the same error: {error}")

    def _judged(self, event: Validated) -> Continue | Stop:
        """Note a validation, and say whether the trial goes on. The run as it stands is never stopped: the others are
        held against it."""
        trial = self.trials[event.number].with_point(event.point, event.row)
        self._keep(replace(trial, seconds=round(time.monotonic() - self.since[event.number], 3)))
        decision = Continue() if self.turns else self.study.judge(event.number, event.point)
        if event.point.progress >= 1.0:
            return Continue()
        if self._is_late():
            decision = Stop(self._time_is_over())
        elif self.turns:
            self.resting.add(event.number)
            return _TURN
        elif trial.is_default:
            decision = Continue()
        if isinstance(decision, Stop):
            self.given_up[event.number] = decision.reason
        return decision

    def _end(self, trial: Trial) -> None:
        """Keep a trial for good; of checkpoints the best trial's stay, and those of the run as it stood."""
        before = kept(self.trials.values(), self.aims)
        self.study.end(trial)
        self._keep(trial)
        for number in (before | {trial.number}) - kept(self.trials.values(), self.aims):
            with suppress(OSError):
                shutil.rmtree(self.folder.run_folder(number) / "checkpoints")

    def _keep(self, trial: Trial) -> None:
        self.trials[trial.number] = trial
        self.folder.write(trial)

    def _ended(self) -> int:
        return sum(trial.has_ended for trial in self.trials.values())

    def _time_is_over(self) -> str:
        return f"the sweep's time of {self.plan.settings.time_s:g} s is over"

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
