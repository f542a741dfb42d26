"""A run and a search space -> the best run, its checkpoint, and a record of every trial."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from heliostat.data.prepared import Prepared
from heliostat.errors import Stopped, TrainError
from heliostat.ray_session import ray_session
from heliostat.train import run_folder
from heliostat.train.crew import share_of_cores
from heliostat.train.full_disk import full_disk_told
from heliostat.train.signals import stop_signals
from heliostat.tune.driver import Driver, Sweep
from heliostat.tune.forked import Forks
from heliostat.tune.objectives import check_objectives
from heliostat.tune.plan import Plan, planned, with_validations
from heliostat.tune.pool import Pool, Source
from heliostat.tune.preflight import (
    Largest,
    Machines,
    Places,
    check_metric,
    check_shapes,
    fitting,
    heaviest,
    largest,
    places,
)
from heliostat.tune.records import SweepFolder
from heliostat.tune.space import is_run, value_at
from heliostat.tune.trials import Rehearsal
from heliostat.tune.watcher import SweepWatcher


def tune(
    values: Mapping[str, Any] | None,
    *,
    resume: str | None = None,
    sweep_id: str | None = None,
    watcher: SweepWatcher | None = None,
) -> Sweep:
    """Search the run of plain `values`, whose section `tune` says how; or go on with the sweep of id `resume`.

    Raises RunError with every mistake of run and space at once, DataError for what cannot be prepared, TrainError when
    every first trial fails alike or the disk is full, and after Ctrl-C or SIGTERM Stopped: no process is left, and the
    sweep can be continued.
    """
    watcher = watcher or SweepWatcher()
    if resume:
        folder = SweepFolder.reopen(resume)
        plan = planned(folder.facts()["values"])
    elif values is None:
        raise TrainError("there is nothing to search: name a run, or continue a sweep with --resume ID.")
    else:
        plan, folder = planned(values), None
    is_on_ray = bool(os.environ.get("RAY_ADDRESS"))
    shared = None if is_on_ray else _shared(plan, _this_machine())
    folder = folder or SweepFolder.create(plan.run.name, {"values": plan.values}, sweep_id)
    watcher.started(folder.id, folder.folder)
    wishes: list[bool] = []
    with (
        run_folder.locked(folder.folder),
        ray_session(folder.folder / "ray.log") if is_on_ray else nullcontext(),
        stop_signals(lambda: wishes.append(True)) as wish,
        full_disk_told(folder.folder),
        ExitStack() as stack,
    ):
        shared = shared or _shared(plan, _cluster())
        pool = Pool(_source(shared, folder.folder / "trials.log", is_on_ray=is_on_ray), shared)
        stack.callback(pool.close)
        try:
            pool.source.start()
            driver = _prepared_driver(plan, folder, pool, watcher, wishes)
            driver.drive(wishes)
            return driver.result()
        except Stopped as stopped:
            message = f"{stopped} Continue with: heliostat tune --resume {folder.id}"
            raise Stopped(message, exit_code=wish.exit_code) from None


def _this_machine() -> Machines:
    cores = share_of_cores(1)
    return Machines((cores,), free=cores)


def _cluster() -> Machines:
    from heliostat.tune.actors import machines

    return machines()


def _shared(plan: Plan, there: Machines) -> Places:
    """How trials share the machines."""
    settings, scaling = plan.settings.model_copy(update={"trials": plan.total}), plan.run.scaling
    return places(settings, scaling.least_workers, scaling.threads_per_worker, there)


def _source(shared: Places, log: Path, *, is_on_ray: bool) -> Source:
    """Where the processes of the trials come from."""
    if not is_on_ray:
        return Forks(shared.threads, log)
    from heliostat.tune.actors import Actors

    return Actors(shared.threads, log, has_gpus=shared.on_gpus)


def _prepared_driver(
    plan: Plan, folder: SweepFolder, pool: Pool, watcher: SweepWatcher, wishes: Sequence[bool]
) -> Driver:
    """Prepare the data that trials share, and let every process build the run once. Raises Stopped between the two."""
    from heliostat.ingest import prepared_once

    prepared = prepared_once(plan.run, folder.folder, watcher.preparing)
    _heed(wishes)
    plan, epochs = with_validations(plan, prepared)
    rehearsals = pool.rehearse(plan.run, prepared.folder)
    _heed(wishes)
    metric = check_metric(plan.run, plan.run.head.build().selects, rehearsals[0].scores)
    check_objectives(plan.settings.metrics, rehearsals[0].scores)
    is_fixed = plan.settings.concurrent is not None
    need = _largest(plan, pool, prepared, rehearsals[0])
    pool.size = fitting(pool.size, is_fixed, rehearsals, need, pool.shared.workers)
    if any(each.device != "cpu" for each in rehearsals) and not is_fixed and not pool.shared.on_gpus:
        pool.size = 1  # as long as nobody says that several fit on the GPU
    return Driver(plan, folder, pool, watcher, prepared, metric, epochs)


def _heed(wishes: Sequence[bool]) -> None:
    if wishes:
        raise Stopped("stopped before the first trial of this command began.")


def _largest(plan: Plan, pool: Pool, prepared: Prepared, rehearsal: Rehearsal) -> Largest:
    """The most that a worker of a trial will hold: each value of each setting is weighed, then the heaviest together.

    Raises RunError for a population whose members would have different weights.
    """
    space = plan.space
    ends = [(each.key, values) for each, values in space.ends() if each.key.startswith(("encoder", "head"))]
    ends = [(key, values) for key, values in ends if is_run(space, values)]
    weights = pool.weigh([space.run(values) for _, values in ends], prepared.folder)
    if plan.settings.is_population:
        check_shapes(rehearsal, [(key, weight) for (key, _), weight in zip(ends, weights, strict=True)])
    weighed = [(values, weight) for (_, values), weight in zip(ends, weights, strict=True)]
    together = heaviest([(key, values[key], weight) for (key, values), weight in zip(ends, weights, strict=True)])
    values = space.drawn(lambda each: together.get(each.key, value_at(plan.run, each.key)))
    if len(together) > 1 and is_run(space, values):
        both = {key: values[key] for key in together if key in values}
        weighed += zip([both], pool.weigh([space.run(values)], prepared.folder), strict=True)
    return largest(rehearsal, weighed)
