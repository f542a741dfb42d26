"""The head of a cluster is away for a while or for good, or the power of all nodes fails."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(900)]


@pytest.mark.fault(
    "the head's control process (GCS) dies and comes back on what it stored",
    seen="nothing",
    lost="nothing: the same workers go on",
    proof="weights of the unbroken run, to the bit; no worker started again",
)
def test_a_head_that_comes_back_finds_the_training_going_on(nodes: Any, story: Any, unbroken: dict[str, str]) -> None:
    driver = story.begun("headless")
    nodes.tell("headless")
    time.sleep(8)
    nodes.tell("headed")
    log = story.runs.finish(driver)
    assert "warning" not in log
    assert story.runs.weights("headless") == unbroken


@pytest.mark.fault(
    "the head's control process dies and stays away",
    seen="`warning…the head of the cluster has not answered for 15 s. After a minute without it Ray ends this command; "
    "then continue with: heliostat train --resume …`; exit code 1",
    lost="steps since the last checkpoint are computed again",
    proof="resumed on a new cluster it goes on after the newest checkpoint, and no update is missing",
)
def test_a_head_that_stays_away_ends_the_command(
    start_nodes: Callable[[], Any],
    story_on: Callable[[Any], Any],
    is_seen: Callable[[str], None],
) -> None:
    nodes = start_nodes()
    story = story_on(nodes)
    driver = story.begun("away", epochs="train.epochs=400")
    nodes.tell("headless")
    is_seen(story.runs.finish(driver, exit_code=1))
    nodes.end()
    story = story_on(start_nodes())
    last = int(story.runs.whole("away")[-1].name.removeprefix("step-"))
    driver = story.runs.start("--resume", "away")
    story.ends(driver)
    story.runs.wait_until(driver, lambda: "training" in story.runs.log, "the workers")
    driver.terminate()
    story.runs.finish(driver, exit_code=143)
    steps = [step for step, _ in story.losses("away")]
    assert steps == list(range(1, steps[-1] + 1))
    assert steps[-1] > last


@pytest.mark.fault(
    "the power of all nodes fails, the head's and the driver's too; `HELIOSTAT_HOME` is kept",
    seen="nothing: the command is gone. heliostat train --resume ID on the next cluster goes on",
    lost="steps since the last checkpoint are computed again; of the result nothing",
    proof="weights of the unbroken run, to the bit",
)
def test_a_new_cluster_goes_on_after_a_power_cut(
    start_nodes: Callable[[], Any],
    story_on: Callable[[Any], Any],
    unbroken: dict[str, str],
) -> None:
    nodes = start_nodes()
    driver = story_on(nodes).begun("cut")
    driver.send_signal(signal.SIGKILL)
    nodes.power_cut()
    driver.wait()
    story = story_on(start_nodes())
    story.runs.run("--resume", "cut")
    assert story.runs.weights("cut") == unbroken
