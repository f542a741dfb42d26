"""A run and a search space -> the best run, its checkpoint, and a record of every trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heliostat.errors import Stopped, TrainError
from heliostat.train import run_folder
from heliostat.train.crew import share_of_cores
from heliostat.train.signals import stop_signals
from heliostat.tune.driver import Driver, Sweep
from heliostat.tune.objectives import check_objectives
from heliostat.tune.plan import Plan, planned, with_validations
from heliostat.tune.pool import Pool
from heliostat.tune.preflight import check_metric, fitting, places
from heliostat.tune.records import SweepFolder
from heliostat.tune.watcher import SweepWatcher


def tune(values: Mapping[str, Any] | None, *, resume: str | None = None, watcher: SweepWatcher | None = None) -> Sweep:
    """Search the run of plain `values`, whose section `tune` says how; or go on with the sweep of id `resume`.

    Raises RunError with every mistake of run and space at once, TrainError when every first trial fails alike, and
    after Ctrl-C or SIGTERM Stopped: no process is left, and the sweep can be continued.
    """
    watcher = watcher or SweepWatcher()
    if resume:
        folder = SweepFolder.reopen(resume)
        plan = planned(folder.facts()["values"])
    elif values is None:
        raise TrainError("there is nothing to search: name a run, or continue a sweep with --resume ID.")
    else:
        plan, folder = planned(values), None
    concurrent, threads = places(plan.settings, plan.run.scaling.threads_per_worker, share_of_cores(1))
    folder = folder or SweepFolder.create(plan.run.name, {"values": plan.values})
    watcher.started(folder.id, folder.folder)
    wishes: list[bool] = []
    with run_folder.locked(folder.folder), stop_signals(lambda: wishes.append(True)) as wish:
        pool = Pool(min(concurrent, plan.total), threads, folder.folder / "trials.log")
        try:
            pool.start()
            driver = _prepared_driver(plan, folder, pool, watcher)
            driver.drive(wishes)
            return driver.result()
        except Stopped as stopped:
            message = f"{stopped} Continue with: heliostat tune --resume {folder.id}"
            raise Stopped(message, exit_code=wish.exit_code) from None
        finally:
            pool.close()


def _prepared_driver(plan: Plan, folder: SweepFolder, pool: Pool, watcher: SweepWatcher) -> Driver:
    """Prepare the data that trials share, and let every place build the run once."""
    import psutil

    from heliostat.ingest import prepared_once

    prepared = prepared_once(plan.run, folder.folder, watcher.preparing)
    plan, epochs = with_validations(plan, prepared)
    rehearsals = pool.rehearse(plan.run, prepared.folder)
    metric = check_metric(plan.run, plan.run.head.build().selects, rehearsals[0].scores)
    check_objectives(plan.settings.metrics, rehearsals[0].scores)
    free_mb = psutil.virtual_memory().available / 1e6 + sum(each.memory_mb for each in rehearsals)
    pool.size = fitting(pool.size, plan.settings.concurrent is not None, rehearsals, free_mb)
    if any(each.device != "cpu" for each in rehearsals) and plan.settings.concurrent is None:
        pool.size = 1  # as long as nobody says that several fit on the GPU
    return Driver(plan, folder, pool, watcher, prepared, metric, epochs)
