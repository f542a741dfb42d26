"""Who is tried next and who is stopped: Optuna's samplers and pruners over the trials so far, no process of its own."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from heliostat.run import TuneSettings
from heliostat.run.domains import Choice, Dimension
from heliostat.train.policy import Continue, Stop
from heliostat.tune.objectives import reached
from heliostat.tune.records import Aim, Point, Trial
from heliostat.tune.space import Space, Values, is_run

if TYPE_CHECKING:
    import optuna

WHOLE = 1000
"""The budget that a scheduler sees in the run's own training; a trial of twice its epochs has twice of it."""
_LATE = 2 / 3
"""The share of a trial from which on it is not stopped: that would spare little, and finished ones can be compared."""
_DRAWS = 50
"""Points that are drawn in search of one that is new and makes a whole run."""


class Study:
    """Proposes points and judges validations. Not safe for two threads."""

    def __init__(
        self,
        space: Space,
        settings: TuneSettings,
        *,
        epochs: float,
        seed: int | None = None,
        aims: Sequence[Aim] = (),
    ) -> None:
        """`epochs` are the passes over the train split of the run itself; several `aims` are proposed for at once."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._space, self._settings, self._epochs = space, settings, epochs
        self._aims = aims if len(aims) > 1 else ()
        self._study = optuna.create_study(
            directions=["maximize"] * max(1, len(aims)),
            sampler=_sampler(settings, settings.seed if seed is None else seed),
            pruner=_pruner(settings),
        )
        self._grid = _shuffled(space, settings.seed) if settings.search == "grid" else None
        self._asked: dict[int, optuna.Trial] = {}
        self._proposed: dict[str, optuna.Trial] = {}
        self._seen: set[str] = set()
        self._told: set[tuple[int, int]] = set()

    @property
    def behind(self) -> optuna.Study:
        """What Optuna has of it."""
        return self._study

    def propose(self) -> Values | None:
        """The next point; None when there is none that is new."""
        if self._grid is not None:
            return next(
                (point for point in self._grid if _text(point) not in self._seen and is_run(self._space, point)), None
            )
        import optuna

        for _ in range(_DRAWS):
            trial = self._study.ask()
            values = self._space.drawn(lambda each, trial=trial: _suggested(trial, each))  # type: ignore[misc]
            if _text(values) not in self._seen and is_run(self._space, values):
                self._proposed[_text(values)] = trial
                return values
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return None

    def begin(self, number: int, values: Values) -> None:
        """The trial `number` runs at `values`, which may have been proposed here or not."""
        proposed = _text(values) in self._proposed
        self._asked[number] = self._proposed.pop(_text(values)) if proposed else self._given(values)
        self._seen.add(_text(values))

    def judge(self, number: int, point: Point) -> Continue | Stop:
        """Whether the trial goes on after a validation."""
        if self._aims:  # their order by one score alone says little
            return Continue()
        trial, budget = self._asked[number], self.budget(point)
        if (number, budget) not in self._told:  # a trial that goes on in another driver may say it again
            self._told.add((number, budget))
            trial.report(point.score, budget)
        if point.progress >= _LATE or self._settings.scheduler in ("fifo", "pbt", "pb2") or not trial.should_prune():
            return Continue()
        return Stop(f"{self._settings.scheduler}: others did better after {point.epochs:.3g} epochs", is_kept=False)

    def end(self, trial: Trial) -> None:
        """The trial has ended: the next points are chosen by what came of it."""
        import optuna

        asked, best = self._asked.pop(trial.number), trial.best
        states = optuna.trial.TrialState
        values = reached(trial, self._aims) if self._aims else None
        if trial.state == "failed" or best is None:
            self._study.tell(asked, state=states.FAIL)
        elif self._aims:
            self._study.tell(asked, values, state=states.COMPLETE if values else states.FAIL)
        elif trial.state == "stopped":
            self._study.tell(asked, state=states.PRUNED)
        else:
            self._study.tell(asked, best.score)

    def replay(self, trial: Trial) -> None:
        """Learn what an earlier driver knew of a trial; one that has not ended may go on."""
        self.begin(trial.number, dict(trial.values))
        for point in trial.curve:
            self.judge(trial.number, point)
        if trial.has_ended:
            self.end(trial)

    def budget(self, point: Point) -> int:
        """What a validation has cost, on a scale where the run itself costs WHOLE."""
        return max(1, round(WHOLE * point.epochs / self._epochs))

    def _given(self, values: Values) -> optuna.Trial:
        written = {each.key: _label(each, values[each.key]) for each in self._space.dimensions if each.key in values}
        self._study.enqueue_trial(written)
        trial = self._study.ask()
        self._space.drawn(lambda each: _suggested(trial, each))
        return trial


def _shuffled(space: Space, seed: int) -> Iterator[Values]:
    """The points of a grid in an order of chance: neighbours one after the other would tell a scheduler little."""
    points = list(space.points())
    random.Random(seed).shuffle(points)
    return iter(points)


def _text(values: Values) -> str:
    return json.dumps(values, sort_keys=True)


def _label(each: Dimension, value: Any) -> Any:
    """As Optuna knows it: a choice may be anything, so it goes by its JSON."""
    return json.dumps(value, sort_keys=True) if isinstance(each.domain, Choice) else value


def _suggested(trial: optuna.Trial, each: Dimension) -> Any:
    domain = each.domain
    if isinstance(domain, Choice):
        labels = {json.dumps(option, sort_keys=True): option for option in domain.options}
        return labels[str(trial.suggest_categorical(each.key, list(labels)))]
    if domain.is_whole:
        step = 1 if domain.is_log else int(domain.step or 1)
        return trial.suggest_int(each.key, int(domain.low), int(domain.high), step=step, log=domain.is_log)
    if domain.step is not None:
        return round(trial.suggest_float(each.key, domain.low, domain.high, step=domain.step), 12)
    return trial.suggest_float(each.key, domain.low, domain.high, log=domain.is_log)


def _sampler(settings: TuneSettings, seed: int) -> optuna.samplers.BaseSampler:
    from optuna import samplers

    if settings.search == "tpe" and not settings.is_population:  # whose points are drawn before any has a score
        # Groups are the parts of a conditional space; a running trial counts as a bad one, so that neighbours differ.
        return samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
    if settings.search == "sobol":
        return samplers.QMCSampler(qmc_type="sobol", scramble=True, seed=seed, warn_independent_sampling=False)
    return samplers.RandomSampler(seed=seed)


def _pruner(settings: TuneSettings) -> optuna.pruners.BasePruner:
    from optuna import pruners

    first = max(1, int(0.9 * WHOLE / settings.validations))  # before the first validation, wherever steps round it to
    if settings.scheduler == "asha":
        return pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=settings.reduction)
    if settings.scheduler == "hyperband":
        return pruners.HyperbandPruner(first, WHOLE, settings.reduction)
    if settings.scheduler == "median":
        return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2 * first)
    return pruners.NopPruner()
