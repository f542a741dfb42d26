"""A node whose memory runs out: once, so that the run goes on, and again and again, so that it ends with a sentence."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from heliostat.testing.distribution import on_path, write_dist_info

Ends = Callable[[subprocess.Popen[bytes]], None]
NEEDED_GB = 13.0
MARGIN_GB = 5.0
"""How much is taken before Ray finds that it is too much: others on the machine may move by less than that."""
RUN = [
    "sentiment/tiny",
    "head.type=greedy.polarity",
    "data.limit=400",
    "train.epochs=20",
    "train.log_every=1",
    "train.checkpoint_every=3",
    "train.tokens_per_batch=1024",
    "scaling.num_workers=2",
]
GREEDY = '''
"""A head whose process takes memory until it is ended, as often as the file `greed` has lines."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from heliostat.plugin import Classification


class Polarity(Classification):
    """A polarity."""

    class Config(Classification.Config):
        labels: tuple[str, ...] | None = ("negative", "neutral", "positive")

    def module(self, features):
        import torch.distributed as group

        greed = Path(os.environ["HELIOSTAT_HOME"]) / "greed"
        if group.is_available() and group.is_initialized() and group.get_rank() == 1 and greed.exists():
            left = greed.read_text().splitlines()
            greed.write_text("\\n".join(left[1:])) if left[1:] else greed.unlink()
            threading.Thread(target=_take, daemon=True).start()
        return super().module(features)


def _take():
    time.sleep(3)
    taken = []
    while len(taken) < 80:
        taken.append(bytearray(os.urandom(1 << 20) * 128))
        time.sleep(0.1)


def register(registry):
    registry.add("polarity", Polarity)
'''
pytestmark = [pytest.mark.sweep, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def greedy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    site = tmp_path_factory.mktemp("greedy_site")
    (site / "heliostat_greedy").mkdir()
    (site / "heliostat_greedy" / "__init__.py").write_text(GREEDY, encoding="utf-8")
    write_dist_info(site, "greedy", "heliostat_greedy:register")
    with on_path(site):
        yield


@pytest.fixture
def runs(runs_at: Callable[..., Any], greedy: None, tmp_path: Path) -> Any:
    """Runs on a Ray that ends workers when the machine's memory is fuller by 5 GB than it is now."""
    memory = psutil.virtual_memory()
    if memory.available < NEEDED_GB * 1e9:
        pytest.skip(f"less than {NEEDED_GB:g} GB of memory are free")
    threshold = (memory.total - memory.available + MARGIN_GB * 1e9) / memory.total
    return runs_at(tmp_path / "home", {"RAY_memory_usage_threshold": f"{threshold:.3f}"})


@pytest.mark.fault(
    "a node runs out of memory once",
    seen="`warning…the workers started again from the last checkpoint.`",
    lost="steps since the last checkpoint are computed again; of the result nothing",
    proof="weights of the unbroken run, to the bit",
)
def test_a_worker_that_took_too_much_is_ended_and_the_run_goes_on(
    runs: Any, ends: Ends, is_seen: Callable[[str], None]
) -> None:
    runs.run(*RUN, "--run-id", "unbroken")
    (runs.home / "greed").write_text("once")
    is_seen(runs.run(*RUN, "--run-id", "greedy"))
    assert not (runs.home / "greed").exists()
    assert runs.weights("greedy") == runs.weights("unbroken")


@pytest.mark.fault(
    "a node runs out of memory each time",
    seen="`error the workers failed and Ray gave up: the memory of the node … ran out (… of … GB) and workers there "
    "were ended. …--resume …`; exit code 2",
    lost="steps since the last checkpoint, until it is resumed",
    proof="the last checkpoint is whole; resumed with enough memory it comes to its end",
)
def test_workers_that_take_too_much_each_time_end_the_run_with_a_sentence(
    runs: Any, ends: Ends, is_seen: Callable[[str], None]
) -> None:
    runs.home.mkdir(parents=True)
    (runs.home / "greed").write_text("one\ntwo")
    is_seen(runs.run(*RUN, "scaling.max_failures=1", "--run-id", "greedy", exit_code=2))
    assert runs.whole("greedy")
    runs.run("--resume", "greedy")
