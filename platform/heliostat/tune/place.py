"""The side of a trial: a warm process that trains one after the other, and asks after each validation to go on."""

from __future__ import annotations

import gc
import json
import tempfile
import traceback
from collections.abc import Mapping
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from heliostat import checkpoint
from heliostat.data.prepared import Prepared
from heliostat.run import check
from heliostat.train.loop import fit
from heliostat.train.policy import Continue, Judged, Stop
from heliostat.train.validate import score_names
from heliostat.train.worker import LocalWorker, memory_mb, set_threads
from heliostat.tune.costs import measured


class TrialWorker(LocalWorker):
    """This process, alone, under the eyes of a sweep."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection

    def judge(self, judged: Judged) -> Continue | Stop:
        """Ask the driver, and wait for its answer."""
        _send(self.connection, {"is": "validated", **_point(judged), "row": dict(judged.row)})
        answer = json.loads(self.connection.recv_bytes())
        return Stop(**answer) if answer else Continue()


def serve(descriptor: int) -> None:
    """Do what comes over the connection until it closes."""
    connection = Connection(descriptor)
    while True:
        try:
            order = json.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            set_threads(order["threads"])
            answer = _rehearse(order) if order["do"] == "rehearse" else _train(order, connection)
        except (BrokenPipeError, EOFError):
            return  # the driver is gone
        except BaseException as error:
            traceback.print_exc()  # into the log of the sweep
            answer = {"is": "failed", "error": _one_line(error), "trace": traceback.format_exc()}
        _send(connection, answer)
        gc.collect()  # a model and its optimiser hold each other
        if order["do"] == "rehearse":
            gc.freeze()  # what was imported stays, and is not looked through after each trial


def _train(order: Mapping[str, Any], connection: Connection) -> dict[str, Any]:
    run, folder = check(order["run"]), Path(order["folder"])
    if order["prepared"]:
        prepared = _opened(order["prepared"])
    else:
        from heliostat.ingest import prepare

        prepared = prepare(run)
    outcome = fit(run, prepared, TrialWorker(connection), folder)
    (folder / "outcome.json").write_text(json.dumps(outcome._asdict()), encoding="utf-8")
    best = checkpoint.step_folder(folder / "checkpoints", outcome.best.step)
    costs = measured(best, order["measures"], prepared)
    return {"is": "ended", "reason": outcome.reason, "prepared": str(prepared.folder), "costs": costs}


def _rehearse(order: Mapping[str, Any]) -> dict[str, Any]:
    """Build the model and its optimiser, and compute the scores of one row."""
    from heliostat.train.progress import Timetable
    from heliostat.train.trainee import Trainee

    run, prepared = check(order["run"]), _opened(order["prepared"])
    with tempfile.TemporaryDirectory() as folder:
        trainee = Trainee.build(run, prepared, LocalWorker(), Path(folder))
        timetable = Timetable.of(run.train, trainee.plan)
        parameters = sum(each.numel() for each in trainee.model.parameters())
        trained = sum(each.numel() for each in trainee.model.parameters() if each.requires_grad)
        scores = score_names(trainee)
        trainee.close("finished")
    return {
        "is": "rehearsed",
        "scores": scores,
        "parameters": parameters,
        "epochs": timetable.epochs(timetable.position(timetable.num_steps)),
        "device": trainee.worker.device.type,
        "memory_mb": memory_mb(trainee.worker.device) + 12 * trained / 1e6,  # gradients and two moments, fp32
    }


@lru_cache(maxsize=4)
def _opened(folder: str) -> Prepared:
    """Prepared data whose shards stay mapped from trial to trial."""
    return Prepared.open(Path(folder))


def _point(judged: Judged) -> dict[str, Any]:
    step, score = judged.validation
    return {"epochs": judged.epochs, "progress": judged.progress, "step": step, "score": score}


def _one_line(error: BaseException) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _send(connection: Connection, message: Mapping[str, Any]) -> None:
    connection.send_bytes(json.dumps(message).encode())
