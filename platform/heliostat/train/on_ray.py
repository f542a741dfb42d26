"""A training on the workers of Ray Train. Ray starts, watches and restarts processes; checkpoints are ours.

Ray keeps no checkpoint and no metrics for us: each launch has a storage folder of its own, so a torn file of Ray's can
never keep a run from going on. After a lost worker Ray calls the workers again, and each goes on from the newest
checkpoint of the run whose hashes hold.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from heliostat.errors import HeliostatError, Stopped, TrainError
from heliostat.run import Run, ScalingSettings
from heliostat.run.settings import AUTO
from heliostat.train.beats import Beats, groups, wait_for_silence
from heliostat.train.crew import share_of_cores
from heliostat.train.full_disk import full_disk_told
from heliostat.train.lookout import Lookout
from heliostat.train.run_folder import is_asked_to_stop

_STOPPED = "stopped"


def train_on_ray(run: Run, prepared: Path, folder: Path, look: Lookout) -> None:
    """Run the workers to their end, looking about five times a second how they are, in this thread.

    Raises what the workers raised: Stopped, or another HeliostatError; TrainError when Ray gave up.
    """
    from ray.exceptions import RayActorError

    cpus = check_resources(run.scaling.least_workers)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(run.scaling.timeout_s)
    (folder / "failure.json").unlink(missing_ok=True)
    for _ in range(run.scaling.max_failures + 1):
        failure = _launch(run, prepared, folder, cpus, look)
        if not isinstance(failure, RayActorError):
            break
        look.watcher.warn("Ray's controller of the training died. The workers start again from the last checkpoint.")
        _free(groups(folder))
        wait_for_silence(folder)  # two generations of workers must not write one checkpoint
    if failure is not None:
        _raise_failure(folder, failure, look.hung)
    if (folder / "failure.json").exists():
        _raise_failure(folder, None)


def _launch(run: Run, prepared: Path, folder: Path, cpus: float, look: Lookout) -> BaseException | None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from heliostat.train.ray_group import GroupConfig

    with tempfile.TemporaryDirectory(prefix="ray-", dir=folder, ignore_cleanup_errors=True) as storage:
        trainer = TorchTrainer(
            work,
            train_loop_config={"run": run.dump(), "prepared": str(prepared), "folder": str(folder)},
            torch_config=GroupConfig(timeout_s=math.ceil(run.scaling.timeout_s)),
            scaling_config=ScalingConfig(
                num_workers=workers_on_ray(run.scaling),
                resources_per_worker={"CPU": cpus},
                use_gpu=_has_gpus(run),
                placement_strategy="SPREAD" if run.scaling.num_workers == AUTO else "PACK",
            ),
            run_config=RunConfig(
                name="workers",
                storage_path=storage,
                failure_config=FailureConfig(max_failures=run.scaling.max_failures),
            ),
        )
        return _fit(trainer, look)


def _free(placement_groups: set[str]) -> None:
    """Give back what the workers of a dead controller hold: Ray does so by itself only where its dashboard runs."""
    from ray import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    for name in placement_groups:
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(name))))


def _own_group() -> str:
    from ray.util import get_current_placement_group

    group = get_current_placement_group()
    return "" if group is None else str(group.id.hex())


def _fit(trainer: Any, poll: Callable[[], None]) -> BaseException | None:
    """`trainer.fit()` in a thread of its own, so that Ray installs no signal handlers and this thread stays free."""
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=fit, daemon=True, name="ray-train")
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
        poll()
    return failures[0] if failures else None


def _raise_failure(folder: Path, failure: BaseException | None, hung: str = "") -> None:
    """Raise what a worker wrote down as the reason, or else what Ray says."""
    path = folder / "failure.json"
    if path.exists():
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["kind"] == _STOPPED:
            raise Stopped(told["message"])
        raise TrainError(told["message"]) from failure
    why = f"{hung}." if hung else _last_line(failure)
    raise TrainError(f"the workers failed and Ray gave up: {why} Continue with --resume {folder.name}.") from failure


def _last_line(failure: BaseException | None) -> str:
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return lines[-1] if lines else type(failure).__name__


def work(config: dict[str, Any]) -> None:
    """What each Ray worker runs: the same `fit` as everywhere, on a worker of Ray's process group.

    An error that a user can mend is no reason to start again: it is written down and the worker ends in order.
    """
    import ray.train
    import ray.train.torch

    from heliostat.data.prepared import Prepared
    from heliostat.run import check
    from heliostat.train.loop import fit
    from heliostat.train.ray_worker import RayWorker
    from heliostat.train.worker import set_threads

    context = ray.train.get_context()
    run, folder = check(config["run"]), Path(config["folder"])
    set_threads(run.scaling.threads_per_worker or share_of_cores(context.get_local_world_size()))
    worker = RayWorker(
        ray.train.torch.get_device(),
        lambda: is_asked_to_stop(folder),
        strategy=run.scaling.strategy,
        precision=run.train.precision,
    )
    worker.beats = Beats(folder, worker.rank, group=_own_group())
    worker.beats.start(worker.world_size)
    try:
        with full_disk_told(folder):
            outcome = fit(run, Prepared.open(Path(config["prepared"])), worker, folder)
    except HeliostatError as error:
        kind = _STOPPED if isinstance(error, Stopped) else "error"
        if worker.rank == 0 or kind != _STOPPED:
            (folder / "failure.json").write_text(json.dumps({"kind": kind, "message": str(error)}), encoding="utf-8")
        return
    finally:
        worker.beats.stop()
    if worker.rank == 0:
        (folder / "outcome.json").write_text(json.dumps(outcome._asdict()), encoding="utf-8")


def _has_gpus(run: Run) -> bool:
    import ray

    return float(ray.cluster_resources().get("GPU", 0)) >= run.scaling.least_workers


def workers_on_ray(scaling: ScalingSettings) -> int | tuple[int, int]:
    """What Ray is asked for: as the run says, or with auto a worker a GPU, or a machine with CPUs where there are none.

    Ray must be connected.
    """
    import ray

    if scaling.num_workers != AUTO:
        return scaling.num_workers
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(each.get("GPU", 0) for each in nodes))
    return gpus or max(1, sum(each.get("CPU", 0) >= 1 for each in nodes))


def check_resources(num_workers: int) -> float:
    """CPUs for each worker. Raises TrainError at once when the cluster can never hold them: Ray would wait for ever."""
    import ray

    cpus = float(ray.cluster_resources().get("CPU", 0))
    if cpus <= 0:
        raise TrainError("this Ray cluster has no CPUs to train on.")
    if num_workers > 4 * cpus:
        raise TrainError(
            f"scaling.num_workers is {num_workers} and the cluster has {cpus:g} CPUs: "
            f"take {max(1, int(cpus))} workers or fewer."
        )
    return 1.0 if num_workers <= cpus else 0.25
