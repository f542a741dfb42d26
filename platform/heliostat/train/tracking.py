"""Who is told the curves of a training beside our own `metrics.jsonl`: TensorBoard, MLflow, Weights & Biases.

Each is imported only when a run names it in `train.trackers`, and called on rank 0 only. They are told numbers and the
settings of the run, never a record.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any, Protocol

from heliostat.errors import TrainError
from heliostat.run import Run


class Tracker(Protocol):
    """Somebody who keeps curves."""

    def open(self, folder: Path, run: Run, step: int) -> None:
        """Begin, or go on after `step`. The folder's name is the id of the run."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep these values of a step."""

    def close(self) -> None:
        """Write out everything; nothing of it is left running."""


class TensorBoard:
    """Event files in the folder `tensorboard` of the run."""

    def open(self, folder: Path, run: Run, step: int) -> None:
        """Begin; what an earlier process wrote beyond `step` is hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)  # type: ignore[no-untyped-call]

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One scalar each."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush the event file."""
        self._writer.close()


class MLflow:
    """An MLflow run: at $MLFLOW_TRACKING_URI where that is set, or else in `mlflow.db` beside the runs' folders."""

    def open(self, folder: Path, run: Run, step: int) -> None:
        """Begin, or go on with the MLflow run that carries this run's id. After a restart it holds some steps twice."""
        from mlflow import MlflowClient

        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.absolute().parent / 'mlflow.db'}"
        self._client: Any = MlflowClient(tracking_uri=address)
        known = self._client.get_experiment_by_name(run.name)
        # The default would be a folder in whatever directory the process was started from.
        place = None if "MLFLOW_TRACKING_URI" in os.environ else (folder.absolute().parent / "mlflow").as_uri()
        experiment = known.experiment_id if known else self._client.create_experiment(run.name, artifact_location=place)
        found = self._client.search_runs([experiment], f"tags.\"heliostat.run_id\" = '{folder.name}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        tags = {"heliostat.run_id": folder.name}
        self._id = self._client.create_run(experiment, tags=tags, run_name=folder.name).info.run_id
        for key, value in flat(run.dump()):
            self._client.log_param(self._id, key, value[:500])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One batch of metrics."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[Metric(key, value, now, step) for key, value in values.items()])

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._id)


class WandB:
    """A Weights & Biases run, offline in the run's folder unless $WANDB_MODE says otherwise: see `wandb sync`."""

    def open(self, folder: Path, run: Run, step: int) -> None:
        """Begin, or go on under the same id."""
        import wandb

        self._run: Any = wandb.init(
            project=run.name,
            id=folder.name,
            name=folder.name,
            dir=str(folder),
            config=run.dump(),
            resume="allow",
            mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True, save_code=False),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One row."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Finish the run and end the process that wandb started for it."""
        import wandb

        self._run.finish()
        wandb.teardown()


_TRACKERS: dict[str, type[TensorBoard] | type[MLflow] | type[WandB]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}


def require_trackers(names: Sequence[str]) -> None:
    """Raise TrainError for a tracker whose package is not installed, before anything has been computed."""
    for name in names:
        if util.find_spec(name) is None:
            raise TrainError(
                f"train.trackers names '{name}', which is not installed: pip install 'heliostat[{name}]', "
                "or leave it out of train.trackers."
            )


def build_trackers(names: Sequence[str]) -> list[Tracker]:
    """The trackers of these names, not yet open. Raises TrainError for one that is not installed."""
    require_trackers(names)
    return [_TRACKERS[name]() for name in dict.fromkeys(names)]


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The dotted keys of nested settings, with their values as text."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
