"""How a run is searched: the section `tune`, which `heliostat tune` reads and a training leaves alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from heliostat.component import Settings
from heliostat.run.domains import Dimension, dimension

MEASURED: Mapping[str, str] = {
    "latency_ms": "milliseconds of an answer on one thread: the quickest of three, median over examples of valid",
    "parameters": "numbers that the model is made of",
    "size_mb": "megabytes of its weights on the disk",
}
"""What trials can be compared by beside validation scores: the less, the better."""

Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class TuneSettings(Settings):
    """A search over settings of the run."""

    space: dict[str, Any] | None = None
    """Dotted key -> what it may take, as `train.lr: log(1e-5,1e-2)`; None takes what the head declares."""
    trials: Count | None = None
    """Trials, at most; None takes 32, or all points of a grid, and of pbt and pb2 8 members."""
    search: Literal["tpe", "random", "grid", "sobol"] = "tpe"
    """Who proposes the next trial: a tree-structured Parzen estimator (Bergstra et al. 2011, multivariate), chance, a
    grid of all points, a Sobol sequence."""
    scheduler: Literal["asha", "hyperband", "median", "fifo", "pbt", "pb2"] = "asha"
    """Who stops trials early: successive halving without waiting (Li et al. 2020), Hyperband over several of it, those
    below the median, nobody. pbt and pb2 stop none: `trials` members train in turns, and after each those at the bottom
    go on from those at the top with other settings (Jaderberg et al. 2017; by a bandit, Parker-Holder et al. 2020)."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """Of asha and hyperband: one trial of so many goes on from each rung to the next, which is so many times higher."""
    validations: Count = 9
    """Validations of a trial, at least: an early stop can come at each of them, and a turn of pbt and pb2 lasts from
    one to the next. Not of fifo."""
    metric: str | tuple[str, ...] | None = None
    """The validation score that trials are compared by; None takes the run's `train.select`, or the head's. Several,
    as [macro_f1, latency_ms], search for trials that no other beats in all of them, and stop none early: the first is a
    validation score, the others are such or `latency_ms`, `parameters` and `size_mb` of the trained model."""
    concurrent: Count | None = None
    """Trials at a time; None takes one for each share of `scaling.threads_per_worker` cores, as far as memory goes."""
    time_s: Positive | None = None
    """Seconds of one driver after which no trial begins, and those under way end at their next validation."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 7
    """Of the search; each trial has the run's own `train.seed`."""
    refit: bool = False
    """Whether the best run is trained again, on the train and the valid split, for as many updates as its best trial
    had made at its best validation. Nothing is chosen then: that model is stored and reported on test."""

    quantile: Annotated[float, Field(gt=0.0, le=0.5)] = 0.25
    """Of pbt and pb2: the share of the members at the bottom that takes over from as many at the top; one at least."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """What trials are compared by, as far as it is named."""
        return () if self.metric is None else (self.metric,) if isinstance(self.metric, str) else self.metric

    @model_validator(mode="before")
    @classmethod
    def _several_stop_nobody(cls, data: Any) -> Any:
        several = (
            isinstance(data, Mapping) and isinstance(data.get("metric"), (list, tuple)) and len(data["metric"]) > 1
        )
        return {"scheduler": "fifo", **data} if several else data

    @model_validator(mode="after")
    def _metrics_can_be_compared(self) -> Self:
        rule, names = "", self.metrics
        if self.metric is not None and not names:
            rule = "metric names nothing. Leave it out, or name a validation score."
        elif names and names[0] in MEASURED:
            rule = f"metric: {names[0]} is measured when a trial has ended, and checkpoints are chosen before. Put a "
            rule += f"validation score first, as metric: [macro_f1, {names[0]}]."
        elif twice := next((name for name in names if names.count(name) > 1), None):
            rule = f"metric names {twice} twice. Keep one of them."
        elif len(names) > 1 and self.scheduler != "fifo":
            rule = f"scheduler: {self.scheduler} compares by one score, and metric names {len(names)}. Leave it out."
        elif self.refit and self.is_population:
            rule = f"refit trains with one choice of settings, and the weights of {self.scheduler} had several in turn."
            rule += " Leave it out."
        if rule:
            raise PydanticCustomError("metric", "{sentence}", {"sentence": rule})
        return self

    @property
    def is_population(self) -> bool:
        """Whether trials are members of a population, which train in turns."""
        return self.scheduler in ("pbt", "pb2")

    @model_validator(mode="after")
    def _population_has_members(self) -> Self:
        if self.is_population and self.trials == 1:
            rule = "trials is 1, and a population of one has nobody to take over from. Set it to 4 or more."
            raise PydanticCustomError("population", "{sentence}", {"sentence": rule})
        return self

    @model_validator(mode="after")
    def _domains_can_be_read(self) -> Self:
        problems = []
        for key, written in (self.space or {}).items():
            try:
                dimension(key, written)
            except ValueError as error:
                problems.append(f"{key}: {error}")
        if problems:
            raise PydanticCustomError("domain", "{sentence}", {"sentence": " ".join(problems)})
        return self

    def dimensions(self) -> Mapping[str, Dimension]:
        """The searched settings by their keys."""
        return {key: dimension(key, written) for key, written in (self.space or {}).items()}
