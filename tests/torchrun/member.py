"""One process of a gang that trains scenario after scenario: `python member.py RANK scenarios.json`.

Each scenario has its own world size and process group; processes beyond it wait for the next. The gang is started once,
because importing torch takes longer than all that it does.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from heliostat.data.prepared import Prepared
from heliostat.errors import HeliostatError, Stopped
from heliostat.heads.classification import Classification
from heliostat.run import check
from heliostat.train import update
from heliostat.train.loop import fit
from heliostat.train.sharded import local
from heliostat.train.worker import TorchWorker, set_threads


def play(scenario: dict[str, Any], rank: int, meeting: Path) -> dict[str, Any]:
    """Train as the scenario says. What this process saw: `seen` is a list of [epoch, ids] a global batch, `held` the
    numbers of the model that it held."""
    world_size, stop_at = scenario["world_size"], scenario.get("stop_at")
    run, seen = check(scenario["run"]), []
    load = update._load

    def recorded(trainee: Any, rows: Any, draws: Any) -> Any:
        batches, num_mine = load(trainee, rows, draws)
        seen.append([draws.epoch, [int(each) for batch in batches[:num_mine] for each in batch.ids]])
        return batches, num_mine

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size)
    held: list[int] = []
    wrap = TorchWorker.wrap

    def weighed(worker: TorchWorker, model: Any) -> Any:
        wrapped = wrap(worker, model)
        held.append(sum(local(parameter).numel() for parameter in model.parameters()))
        return wrapped

    update._load = recorded
    TorchWorker.wrap = weighed  # type: ignore[method-assign]
    asked = iter(range(1, 100_000))
    worker = TorchWorker(
        torch.device("cpu"),
        lambda: stop_at is not None and next(asked) >= stop_at,
        strategy=run.scaling.strategy,
        precision=run.train.precision,
    )
    try:
        outcome = fit(run, Prepared.open(Path(scenario["prepared"])), worker, Path(scenario["folder"]))
        return {"ended": outcome.reason, "step": outcome.step, "seen": seen, "held": held[0]}
    except Stopped as stopped:
        return {"ended": str(stopped), "seen": seen}
    except HeliostatError as error:
        return {"ended": f"{type(error).__name__}: {error}", "seen": seen}
    finally:
        update._load = load
        TorchWorker.wrap = wrap  # type: ignore[method-assign]
        dist.destroy_process_group()


def main() -> None:
    """Play all scenarios that need this rank."""
    rank, path = int(sys.argv[1]), Path(sys.argv[2])
    Classification.samples = ({"text": "good lovely"}, {"text": "bad poor word word"})
    set_threads(1)
    for number, scenario in enumerate(json.loads(path.read_text())):
        if rank < scenario["world_size"]:
            told = play(scenario, rank, path.parent / f"meeting-{number}")
            (path.parent / f"told-{number}-{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    code = 1
    try:
        main()
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a thread of gloo may abort a process that ends in order, after all is done
