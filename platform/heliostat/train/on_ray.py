"""A training on the workers of Ray Train. Ray starts, watches and restarts processes; checkpoints are ours.

Ray keeps no checkpoint and no metrics for us: each launch has a storage folder of its own, so a torn file of Ray's can
never keep a run from going on. After a lost worker Ray calls the workers again, and each goes on from the newest
checkpoint of the run whose hashes hold.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from heliostat.errors import HeliostatError, Stopped, TrainError
from heliostat.run import Run, ScalingSettings
from heliostat.run.settings import AUTO
from heliostat.train.beats import Beats, forget, groups, nodes, wait_for_silence
from heliostat.train.crew import share_of_cores
from heliostat.train.full_disk import full_disk_told
from heliostat.train.lookout import Lookout
from heliostat.train.overdue import Overdue, forget_told, tell, told
from heliostat.train.roll_call import Roll, RollCall, nodes_of_ray
from heliostat.train.run_folder import ask_to_move, has_moved, is_asked_to_move, is_asked_to_stop

_FULL_MEMORY = re.compile(r"Memory on the node \(IP: (\S+), ID: \w+\) was ([\d.]+)GB used / ([\d.]+)GB limit")
_DEAD_CONTROLLER = "Ray's controller of the training died. The workers start again from the last checkpoint."


def train_on_ray(run: Run, prepared: Path, folder: Path, look: Lookout) -> None:
    """Run the workers to their end, looking about five times a second how they are, in this thread.

    Raises what the workers raised: Stopped, or another HeliostatError; TrainError when Ray gave up.
    """
    cpus = check_resources(run.scaling.least_workers)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")  # after that it counts anew what there is
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(run.scaling.timeout_s)
    forget_told(folder)
    try:
        failure = _launch_until_done(run, prepared, folder, cpus, look)
    finally:
        forget(folder)
        has_moved(folder)  # a wish that came too late is over
    if end := told(folder):
        raise end from failure
    if failure is not None:
        raise _failed(failure, folder.name, look.hung) from failure


def _launch_until_done(run: Run, prepared: Path, folder: Path, cpus: float, look: Lookout) -> BaseException | None:
    """Launch the workers again while they move, and while Ray's controller dies no more often than it may.

    Where memory runs out Ray ends actors beside the workers, and its controller takes that for the end.
    """
    from ray.exceptions import RayActorError
    from ray.train import ControllerError

    deaths = 0
    with _roll_call(run, folder, cpus, look) as roll_call:
        while True:
            failure = _launch(run, prepared, folder, cpus, [look, roll_call])
            if isinstance(failure, (RayActorError, ControllerError)) and deaths < run.scaling.max_failures:
                deaths += 1
                look.watcher.warn(_DEAD_CONTROLLER)
                _free(groups(folder) | _groups_asked_for(_controllers("DEAD")))
                wait_for_silence(folder)  # two generations of workers must not write one checkpoint
            elif not isinstance(told(folder), Stopped) or not has_moved(folder):
                return failure
            forget_told(folder)


def _roll_call(run: Run, folder: Path, cpus: float, look: Lookout) -> RollCall:
    each = {"GPU": 1.0} if _has_gpus(run) else {"CPU": cpus}
    return RollCall(
        Roll(run.scaling.least_workers, run.scaling.timeout_s, folder.name),
        lambda: nodes_of_ray(each, nodes(folder)),
        warn=look.watcher.warn,
        move=lambda: ask_to_move(folder),
    )


def _launch(
    run: Run, prepared: Path, folder: Path, cpus: float, looks: Sequence[Callable[[], None]]
) -> BaseException | None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    from heliostat.train.ray_group import GroupConfig, Trainer

    has_gpus = _has_gpus(run)
    with tempfile.TemporaryDirectory(prefix="ray-", dir=folder, ignore_cleanup_errors=True) as storage:
        trainer = Trainer(
            work,
            train_loop_config={"run": run.dump(), "prepared": str(prepared), "folder": str(folder)},
            torch_config=GroupConfig(timeout_s=math.ceil(run.scaling.timeout_s)),
            scaling_config=ScalingConfig(
                num_workers=workers_on_ray(run.scaling),
                resources_per_worker={"CPU": cpus},
                use_gpu=has_gpus,
                placement_strategy=placement(on_gpus=has_gpus),
            ),
            run_config=RunConfig(
                name="workers",
                storage_path=storage,
                failure_config=FailureConfig(max_failures=run.scaling.max_failures),
            ),
        )
        try:
            return _fit(trainer, [*looks, Overdue(folder)])
        except (TrainError, Stopped):
            _free(groups(folder) | _groups_asked_for(_end_controllers()))
            # Who goes on with the run must not meet one that still writes; on a node that is lost some may live on.
            wait_for_silence(folder, at_most_s=15.0)
            raise


def _free(placement_groups: set[str]) -> None:
    """Give back what the workers of a dead controller hold."""
    from ray import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    for name in placement_groups:
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(name))))


def _end_controllers() -> set[str]:
    """End Ray's controller of a training that is given up: it would wait for room as long as this process lives.

    Returns the names of those that were ended.
    """
    from ray import ActorID
    from ray._private.worker import global_worker

    names = _controllers("ALIVE")
    for name in names:
        global_worker.core_worker.kill_actor(ActorID.from_hex(name), True)
    return names


def _controllers(state_name: str) -> set[str]:
    """The names of Ray's controllers that this process started."""
    import ray
    from ray._private import state

    job, actors = ray.get_runtime_context().get_job_id(), state.actors(actor_state_name=state_name).items()
    return {name for name, actor in actors if actor["JobID"] == job and actor["ActorClassName"] == "TrainController"}


def _groups_asked_for(controllers: set[str]) -> set[str]:
    """The placement groups of controllers, those too that wait for room: no worker could say that it has them."""
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    table = state._connect_and_get_accessor().get_placement_group_table()
    rows = [PlacementGroupTableData.FromString(row) for row in table]
    return {row.placement_group_id.hex() for row in rows if row.creator_actor_id.hex() in controllers}


def _own_group() -> str:
    from ray.util import get_current_placement_group

    group = get_current_placement_group()
    return "" if group is None else str(group.id.hex())


def _fit(trainer: Any, looks: Sequence[Callable[[], None]]) -> BaseException | None:
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
        for look in looks:
            look()
    return failures[0] if failures else None


def _failed(failure: BaseException, run_id: str, hung: str) -> TrainError:
    """That Ray gave up: the rank that hung, or else what Ray says."""
    why = f"{hung}." if hung else _why(failure)
    return TrainError(f"the workers failed and Ray gave up: {why} Continue with --resume {run_id}.")


def _why(failure: BaseException) -> str:
    """A sentence on what Ray says: of the memory of a node what a person needs to know, else Ray's own last line."""
    text = str(failure)
    if full := _FULL_MEMORY.search(text):
        address, used, limit = full.groups()
        return (
            f"the memory of the node {address} ran out ({used} of {limit} GB) and workers there were ended. "
            "`heliostat plan` says what a run needs; train.tokens_per_micro_batch makes its passes smaller."
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else type(failure).__name__


def work(config: dict[str, Any]) -> None:
    """What each Ray worker runs: the same `fit` as everywhere, on a worker of Ray's process group.

    An error that a user can mend is no reason to start again: it is written down and the worker ends in order.
    """
    import ray
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
        lambda: is_asked_to_stop(folder) or is_asked_to_move(folder),
        strategy=run.scaling.strategy,
        precision=run.train.precision,
    )
    worker.beats = Beats(folder, worker.rank, group=_own_group(), node=ray.get_runtime_context().get_node_id())
    worker.beats.start(worker.world_size)
    try:
        with full_disk_told(folder):
            outcome = fit(run, Prepared.open(Path(config["prepared"])), worker, folder)
    except HeliostatError as error:
        tell(folder, error, worker.rank)
        return
    finally:
        worker.beats.stop()
    if worker.rank == 0:
        (folder / "outcome.json").write_text(json.dumps(outcome._asdict()), encoding="utf-8")


def _has_gpus(run: Run) -> bool:
    import ray

    return float(ray.cluster_resources().get("GPU", 0)) >= run.scaling.least_workers


def placement(*, on_gpus: bool) -> Literal["PACK", "SPREAD"]:
    """How workers share the nodes, as far as there is room: spread evenly, so that no machine idles beside a full one.

    A worker without a GPU is promised one CPU and takes its share of the cores of its node; packed, all would share one
    node's. GPUs are nobody's share, and within one machine gradients pass between them many times faster.
    """
    return "PACK" if on_gpus else "SPREAD"


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
