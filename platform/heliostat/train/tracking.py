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
from typing import Any, Literal, Protocol

from heliostat.errors import TrainError
from heliostat.run import Run

Ending = Literal["finished", "stopped", "failed"]
"""How a training ended: by itself, because somebody asked for it, or with an error."""


class Tracker(Protocol):
    """Somebody who keeps curves."""

    def open(self, folder: Path, run: Run, step: int) -> None:
        """Begin, or go on after `step`. The folder's name is the id of the run."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep these values of a step: of any step, as the scores of one may come after the next ones."""

    def close(self, ending: Ending) -> None:
        """Write out everything and say how the training ended; nothing of it is left running."""


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

    def close(self, ending: Ending) -> None:
        """Flush the event file, which knows no ending."""
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

    def close(self, ending: Ending) -> None:
        """Mark the run as FINISHED, KILLED or FAILED. After a kill -9 it stays RUNNING, until it goes on and ends."""
        status = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[ending]
        self._client.set_terminated(self._id, status=status)


_VALIDATED = "valid_step"
"""In W&B: after which step the scores of a row were taken."""


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
        self._run.define_metric("valid*", step_metric=_VALIDATED)
        self._step, self._late = step, list[Mapping[str, float]]()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One row. W&B takes steps in their order only: scores that come late travel with a later row."""
        if any(name.startswith("valid") for name in values):
            values = {**values, _VALIDATED: float(step)}
        if step < self._step:
            self._late.append(values)
            return
        late = self._late.pop(0) if self._late and step > self._step else {}
        self._step = step
        self._run.log({**late, **values}, step=step)

    def close(self, ending: Ending) -> None:
        """Finish the run and end the process that wandb started for it."""
        import wandb

        for later, values in enumerate(self._late, start=1):
            self._run.log(dict(values), step=self._step + later)
        self._run.finish(exit_code={"finished": 0, "stopped": 255, "failed": 1}[ending])
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
