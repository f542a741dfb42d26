"""What dies or hangs beside a worker: Ray's controller, Ray's own snapshot file, a rank that is stopped, a record."""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from heliostat.train.beats import Listener

Ends = Callable[[subprocess.Popen[bytes]], None]

RUN = [
    "sentiment/tiny",
    "data.limit=400",
    "train.epochs=30",
    "train.log_every=1",
    "train.checkpoint_every=3",
    "train.tokens_per_batch=1024",
    "scaling.num_workers=2",
]


@pytest.fixture(scope="module")
def runs(runs_at: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return runs_at(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def unbroken(runs: Any) -> dict[str, str]:
    runs.run(*RUN, "--run-id", "unbroken")
    weights: dict[str, str] = runs.weights("unbroken")
    return weights


def _snapshot(runs: Any, run_id: str) -> Path:
    """Ray's snapshot file in the storage folder of this launch. We report nothing to Ray, so it may not write one."""
    [storage] = runs.folder(run_id).glob("ray-*")
    found = [*storage.rglob("checkpoint_manager_snapshot.json")]
    if found:
        return found[0]
    path: Path = storage / "workers" / "checkpoint_manager_snapshot.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"ray_version": "2.60.0", "checkpoint_results": [], "latest_checkpoint_result": null}')
    return path


@pytest.mark.fault(
    "Ray's controller of the training is killed, its snapshot torn, then the command is killed",
    seen="`warning…Ray's controller of the training died. The workers start again from the last checkpoint.`",
    lost="steps since the last checkpoint are computed again; of the result nothing",
    proof="weights of the unbroken run, to the bit",
)
@pytest.mark.sweep
@pytest.mark.timeout(1800)
def test_a_dead_controller_and_torn_snapshots_of_ray_keep_no_run_from_going_on(
    runs: Any, unbroken: dict[str, str], dice: random.Random, ends: Ends, is_seen: Callable[[str], None]
) -> None:
    """Halved while the run lives, when its controller is killed; emptied between kill -9 of the driver and --resume."""
    driver = runs.start(*RUN, "--run-id", "torn")
    ends(driver)
    runs.wait_for_step(driver, "torn", dice.randint(5, 20))
    snapshot = _snapshot(runs, "torn")
    snapshot.write_bytes(snapshot.read_bytes()[: snapshot.stat().st_size // 2])
    [controller] = runs.named(driver, "ray::TrainController")
    controller.kill()
    controller.wait()
    runs.wait_for_step(driver, "torn", runs.steps("torn") + dice.randint(5, 20))
    driver.kill()
    driver.wait()
    is_seen(runs.log)
    _snapshot(runs, "torn").write_bytes(b"")
    log = runs.run("--resume", "torn")
    assert "warning" not in log
    assert runs.weights("torn") == unbroken
    assert not [*runs.folder("torn").glob("ray-*")], "folders of dead launches are collected"


@pytest.mark.fault(
    "a rank hangs (SIGSTOP)",
    seen="after scaling.timeout_s `warning…rank … (process … on …) has given no sign of life for 15 s`",
    lost="steps since the last checkpoint are computed again; of the result nothing",
    proof="weights of the unbroken run, to the bit",
)
@pytest.mark.sweep
@pytest.mark.timeout(1800)
def test_a_stopped_rank_is_named_ended_and_started_again(
    runs: Any, unbroken: dict[str, str], dice: random.Random, ends: Ends, is_seen: Callable[[str], None]
) -> None:
    driver = runs.start(*RUN, "scaling.timeout_s=15", "--run-id", "stopped")
    ends(driver)
    runs.wait_for_step(driver, "stopped", dice.randint(5, 20))
    beats = {path.stem: json.loads(path.read_text())["who"] for path in runs.folder("stopped").glob("beats/*.json")}
    assert set(beats) == {"rank-0", "rank-1"}
    victim = dice.choice(runs.named(driver, "ray::RayTrainWorker"))
    [rank] = [rank for rank, who in beats.items() if who.startswith(f"process {victim.pid} ")]
    victim.send_signal(signal.SIGSTOP)
    log = runs.finish(driver)
    said = re.search(
        rf"{rank.replace('-', ' ')} \(process {victim.pid} on \S+\) has given no sign of life for 15 s", log
    )
    assert said, log
    is_seen(log)
    assert runs.weights("stopped") == unbroken
    assert not psutil.pid_exists(victim.pid)


@pytest.mark.fault(
    "a rank hangs and scaling.max_failures is used up",
    seen="`error the workers failed and Ray gave up: rank … has given no sign…--resume …`; exit code 2",
    lost="steps since the last checkpoint, until it is resumed",
    proof="the last checkpoint is whole",
)
@pytest.mark.sweep
@pytest.mark.timeout(1800)
def test_a_rank_that_stops_again_and_again_ends_the_run_with_its_name(
    runs: Any, dice: random.Random, ends: Ends, is_seen: Callable[[str], None]
) -> None:
    driver = runs.start(*RUN, "scaling.timeout_s=12", "scaling.max_failures=0", "--run-id", "given-up")
    ends(driver)
    runs.wait_for_step(driver, "given-up", dice.randint(5, 20))
    victim = dice.choice(runs.named(driver, "ray::RayTrainWorker"))
    victim.send_signal(signal.SIGSTOP)
    log = runs.finish(driver, exit_code=2)
    assert re.search(
        r"error the workers failed and Ray gave up: rank [01] \(process \d+ on \S+\) has given no sign", log
    )
    is_seen(log)
    assert runs.whole("given-up")
    shutil.rmtree(runs.folder("given-up"))  # a checkpoint that the rank was at lies there unfinished until a resume


def _beat(folder: Path, rank: int, *, count: int, place: tuple[int, int], idle_s: float) -> None:
    (folder / "beats").mkdir(exist_ok=True)
    beat = {"count": count, "who": f"process {rank} on host", "place": place, "idle_s": idle_s}
    (folder / "beats" / f"rank-{rank}.json").write_text(json.dumps(beat))


@pytest.mark.fault(
    "a rank lives and stands still",
    seen="a warning names the rank that the others wait for; after scaling.timeout_s the workers start again",
    lost="steps since the last checkpoint are computed again; of the result nothing",
    proof="of three ranks the right one is named",
)
def test_the_rank_that_the_others_wait_for_is_named(tmp_path: Path) -> None:
    clock = [0.0]
    listener = Listener(tmp_path, 30.0, lambda: clock[0])
    for second in range(100):
        clock[0] = float(second)
        for rank in range(3):  # rank 2 lives and stands still in the forward pass; the others wait in the backward one
            _beat(tmp_path, rank, count=second, place=(7, 0 if rank == 2 else 1), idle_s=float(second))
        found = listener.silent()
        wanted = "rank 2 (process 2 on host) has not moved for 30 s and the others wait for it" if second > 30 else ""
        assert found == wanted


def test_workers_that_are_all_busy_are_left_alone(tmp_path: Path) -> None:
    clock = [0.0]
    listener = Listener(tmp_path, 30.0, lambda: clock[0])
    for second in range(100):  # a long validation: nobody waits
        clock[0] = float(second)
        for rank in range(2):
            _beat(tmp_path, rank, count=second, place=(7, 1), idle_s=float(second))
        assert listener.silent() == ""


BREAKING = '''
"""An encoder that a record breaks."""

from heliostat.encoders.text import TextEncoder


class Fragile(TextEncoder):
    """Chokes on one word."""

    def encode(self, examples):
        if any("poison" in example["text"] for example in examples):
            raise RuntimeError("no such token")
        return super().encode(examples)


def register(registry):
    registry.add("text", Fragile)
'''


@pytest.fixture
def fragile(tmp_path: Path) -> Any:
    from heliostat.testing.distribution import on_path, write_dist_info

    package = tmp_path / "site" / "heliostat_fragile"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(BREAKING)
    write_dist_info(tmp_path / "site", "fragile", "heliostat_fragile:register")
    with on_path(tmp_path / "site"):
        yield


@pytest.mark.fault(
    "records break the encoder",
    seen="they are listed in rejected.jsonl; too many end the run: error … 60 of 200 records",
    lost="those records",
    proof="as many lines as bad records, and no text of theirs",
)
@pytest.mark.parametrize(("poisoned", "exit_code"), [(1, 0), (60, 2)])
def test_a_record_that_breaks_the_encoder_is_listed_and_too_many_are_a_sentence(
    fragile: None, runs_at: Callable[[Path], Any], tmp_path: Path, poisoned: int, exit_code: int
) -> None:
    source = tmp_path / "rows.csv"
    with source.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(200):
            word = "poison" if number < poisoned else "good" if number % 2 else "bad"
            writer.writerow([f"{word} {number}", "ab"[number % 2]])
    run = {
        "name": "fragile",
        "data": {"adapter": "core.columns", "source": str(source), "split": {"valid": 0.2, "test": 0}},
        "encoder": {"type": "fragile.text", "preset": "tiny", "vocab_size": 300},
        "head": "core.classification",
        "train": {"epochs": 1},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    runs = runs_at(tmp_path / "home")
    log = runs.run(str(tmp_path / "run.yaml"), exit_code=exit_code)
    [rejected] = [*runs.home.glob("prepared/*/rejected.jsonl"), *runs.home.glob("rejected/*.jsonl")]
    lines = [json.loads(line) for line in rejected.read_text().splitlines()]
    assert len(lines) == poisoned
    assert all("poison" not in json.dumps(line) for line in lines), "no text of a record"
    if exit_code:
        assert re.search(r"error .*60 of 200 records", log), log
