"""The side of a trial: a warm process that trains one after the other, alone or as one worker of several."""

from __future__ import annotations

import gc
import json
import socket
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from heliostat import checkpoint
from heliostat.data.prepared import Prepared
from heliostat.errors import TrainError
from heliostat.run import Run, check
from heliostat.train import run_folder
from heliostat.train.full_disk import why_full
from heliostat.train.loop import Outcome, fit
from heliostat.train.policy import Continue, Judged, Stop
from heliostat.train.validate import score_names
from heliostat.train.worker import LocalWorker, TorchWorker, memory_mb, set_threads
from heliostat.tune.costs import measured
from heliostat.tune.gang import joined
from heliostat.tune.weigh import weigh, weight_of

_PATIENCE_S = 60.0
"""How long a trial waits for a process that trained it for a driver which is gone, and that has not ended yet."""


class Line(Protocol):
    """What connects a place with the driver. Both raise an EOFError or a BrokenPipeError when the driver is gone."""

    host: str
    """The address by which the workers of a trial meet."""

    def send(self, message: Mapping[str, Any]) -> None:
        """Tell the driver."""
        ...

    def receive(self) -> dict[str, Any]:
        """Wait for what the driver says."""
        ...


class Wire:
    """A line to a driver on this machine: JSON over a pair of sockets."""

    host = "127.0.0.1"

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def send(self, message: Mapping[str, Any]) -> None:
        """Tell the driver."""
        self.connection.send_bytes(json.dumps(message).encode())

    def receive(self) -> dict[str, Any]:
        """Wait for what the driver says."""
        message: dict[str, Any] = json.loads(self.connection.recv_bytes())
        return message


class TrialWorker(LocalWorker):
    """This process, alone, under the eyes of a sweep."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self.line = line

    def judge(self, judged: Judged) -> Continue | Stop:
        """Ask the driver, and wait for its answer."""
        return _asked(self.line, judged)


class GangWorker(TorchWorker):
    """One of several processes that train a trial together; the first speaks with the driver."""

    line: Line

    def judge(self, judged: Judged) -> Continue | Stop:
        """Ask the driver, and let every worker have its answer."""
        answer = _asked(self.line, judged) if self.rank == 0 else Continue()
        number = 0 if isinstance(answer, Continue) else 2 if answer.is_kept else 1
        agreed = int(self.add_up({"answer": np.array(float(number))})["answer"])
        if self.rank == 0 or not agreed:
            return answer
        return Stop("the driver said so", is_kept=agreed == 2)


def serve(line: Line) -> None:
    """Do what comes over the line until it closes."""
    duties = {"rehearse": _rehearse, "weigh": _weigh, "train": _train}
    while True:
        try:
            order = line.receive()
        except EOFError:
            return
        try:
            set_threads(order["threads"])
            answer = duties[order["do"]](order, line)
        except (BrokenPipeError, EOFError):
            return  # the driver is gone
        except BaseException as error:
            answer = _failed(error)
        line.send(answer)
        gc.collect()  # a model and its optimiser hold each other
        if order["do"] == "rehearse":
            gc.freeze()  # what was imported stays, and is not looked through after each trial


def _train(order: Mapping[str, Any], line: Line) -> dict[str, Any]:
    line.send({"is": "began"})
    run, folder = check(order["run"]), Path(order["folder"])
    if order["prepared"]:
        prepared = _opened(order["prepared"])
    else:
        from heliostat.ingest import prepared_once

        prepared = prepared_once(run, folder)
    if order["world_size"] == 1:
        with _alone(folder):
            outcome = _fitted(run, prepared, TrialWorker(line), folder)
    else:
        outcome = _train_together(order, run, prepared, line)
    best = checkpoint.step_folder(folder / "checkpoints", outcome.best.step)
    costs = {} if order["rank"] else measured(best, order["measures"], prepared)
    return {"is": "ended", "reason": outcome.reason, "prepared": str(prepared.folder), "costs": costs}


def _train_together(order: Mapping[str, Any], run: Run, prepared: Prepared, line: Line) -> Outcome:
    folder, rank = Path(order["folder"]), int(order["rank"])
    with joined(order, run.scaling.timeout_s, line.host, line.send) as device:
        worker = GangWorker(device, strategy=run.scaling.strategy, precision=run.train.precision)
        worker.line = line
        try:
            if rank:
                return fit(run, prepared, worker, folder)
            with _alone(folder):
                return _fitted(run, prepared, worker, folder)
        except (BrokenPipeError, EOFError):
            raise
        except BaseException as error:
            # Say so before the group is left: the others' errors would come of that alone. Then wait for the end.
            line.send(_failed(error))
            line.receive()
            raise


def _fitted(run: Run, prepared: Prepared, worker: TrialWorker | GangWorker, folder: Path) -> Outcome:
    outcome = fit(run, prepared, worker, folder)
    (folder / "outcome.json").write_text(json.dumps(outcome._asdict()), encoding="utf-8")
    return outcome


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the trial: another process may still train it for a driver that is gone, until it learns of that."""
    deadline = time.monotonic() + _PATIENCE_S
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(run_folder.locked(folder))
                break
            except TrainError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield


def _rehearse(order: Mapping[str, Any], line: Line) -> dict[str, Any]:
    """Build the model and its optimiser, and compute the scores of one row."""
    from heliostat.train.progress import Timetable
    from heliostat.train.trainee import Trainee

    run, prepared = check(order["run"]), _opened(order["prepared"])
    with tempfile.TemporaryDirectory() as folder:
        trainee = Trainee.build(run, prepared, LocalWorker(), Path(folder))
        timetable = Timetable.of(run.train, trainee.plan)
        weight = weight_of(trainee.model)
        scores = score_names(trainee)
        trainee.close("finished")
    return {
        "is": "rehearsed",
        "scores": scores,
        "parameters": weight.parameters,
        "epochs": timetable.epochs(timetable.position(timetable.num_steps)),
        "device": trainee.worker.device.type,
        "memory_mb": memory_mb(trainee.worker.device) + 12 * weight.trained / 1e6,  # gradients and two moments, fp32
        "trained": weight.trained,
        "shapes": weight.shapes,
        "machine": socket.gethostname(),
        "free_mb": _free_mb(trainee.worker.device),
    }


def _free_mb(device: torch.device) -> float:
    """What is free where models lie: on the GPU, or on this machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 1e6
    import psutil

    return float(psutil.virtual_memory().available) / 1e6


def _weigh(order: Mapping[str, Any], line: Line) -> dict[str, Any]:
    """Build the model of another run over the same data, as far as it can be built there."""
    return {"is": "weighed", **weigh(_opened(order["prepared"]).parts(check(order["run"])))._asdict()}


@lru_cache(maxsize=4)
def _opened(folder: str) -> Prepared:
    """Prepared data whose shards stay mapped from trial to trial."""
    return Prepared.open(Path(folder))


def _asked(line: Line, judged: Judged) -> Continue | Stop:
    step, score = judged.validation
    point = {"epochs": judged.epochs, "progress": judged.progress, "step": step, "score": score}
    line.send({"is": "validated", **point, "row": dict(judged.row)})
    answer = line.receive()
    return Stop(**answer) if answer else Continue()


def _failed(error: BaseException) -> dict[str, Any]:
    traceback.print_exception(error)  # into the log of the sweep
    first = str(error).strip().partition("\n")[0]
    told = f"{type(error).__name__}: {first}" if first else type(error).__name__
    trace = "".join(traceback.format_exception(error))
    return {"is": "failed", "error": told, "trace": trace, "full": why_full(error)}
