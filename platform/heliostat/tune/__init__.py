"""A search over the run's own dotted keys: a trial is a Run, trained by the same loop as any other.

Why no Ray Tune under it. Its controller wants an actor a trial (1.5 s, or 0.17 s where actors are reused), polls
results, and its schedulers see what a Ray Train run reports only by detours. What a sweep needs of a library is who
proposes (samplers) and who is stopped (pruners): Optuna has both, as plain functions of the trials so far, and no
process of its own. So the driver here is small: a folder of records, a study of Optuna's, and trials behind one
protocol (`trials.Trials`).

Where trials run is `pool.Pool`'s affair: warm forks on this machine or warm actors on a cluster, several of them in one
process group where a run wants several workers. Populations (`population`, `turns`) are trained in turns by the same.

A trial's validations reach the driver as they come, and the training waits for the answer (a millisecond): a trial
that is stopped makes no update more.
"""

from __future__ import annotations

from heliostat.tune.driver import Sweep
from heliostat.tune.sweep import tune
from heliostat.tune.watcher import SweepWatcher, View

__all__ = ["Sweep", "SweepWatcher", "View", "tune"]
