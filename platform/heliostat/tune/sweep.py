"""A run and a search space -> the best run, its checkpoint, and a record of every trial."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from heliostat.data.prepared import Prepared
from heliostat.errors import Stopped, TrainError
from heliostat.home import home
from heliostat.train import run_folder
from heliostat.train.signals import stop_signals
from heliostat.tune.driver import Driver, Sweep
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
    cores = _cores()
    concurrent, threads = places(plan.settings, plan.run.scaling.threads_per_worker, cores)
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


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepared_driver(plan: Plan, folder: SweepFolder, pool: Pool, watcher: SweepWatcher) -> Driver:
    """Prepare the data that trials share, and let every place build the run once."""
    import psutil

    prepared = _data(plan, folder, watcher)
    plan, epochs = with_validations(plan, prepared)
    rehearsals = pool.rehearse(plan.run, prepared.folder)
    metric = check_metric(plan.run, plan.head.selects, rehearsals[0].scores)
    free_mb = psutil.virtual_memory().available / 1e6 + sum(each.memory_mb for each in rehearsals)
    pool.size = fitting(pool.size, plan.settings.concurrent is not None, rehearsals, free_mb)
    if any(each.device != "cpu" for each in rehearsals) and plan.settings.concurrent is None:
        pool.size = 1  # as long as nobody says that several fit on the GPU
    return Driver(plan, folder, pool, watcher, prepared, metric, epochs)


def _data(plan: Plan, folder: SweepFolder, watcher: SweepWatcher) -> Prepared:
    """The data of the run itself. A sweep that is resumed goes on with those it began with."""
    from heliostat.ingest import prepare

    note = folder.folder / "prepared"
    place = home() / "prepared" / note.read_text(encoding="utf-8").strip() if note.is_file() else None
    if place and Prepared.is_complete(place):
        return Prepared.open(place)
    prepared = prepare(plan.run, on_progress=watcher.preparing)
    note.write_text(prepared.key, encoding="utf-8")
    return prepared
