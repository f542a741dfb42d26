"""Nodes of a cluster die or are taken back; what the training makes of it, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(900)]


@pytest.mark.fault(
    "a node dies (its raylet is killed) and another joins",
    seen="`warning…the node … was lost. Workers that were there start again from the last checkpoint when another "
    "node takes its place`, then `there is room for 2 workers again`",
    lost="steps since the last checkpoint are computed again; of the result nothing",
    proof="weights of the unbroken run, to the bit",
)
def test_a_lost_node_is_replaced(
    nodes: Any, story: Any, unbroken: dict[str, str], is_seen: Callable[[str], None]
) -> None:
    driver = story.begun("replaced")
    nodes.tell("kill", "127.0.0.3")
    story.runs.wait_until(driver, lambda: "the node 127.0.0.3 was lost" in story.runs.log, "word of the loss")
    nodes.add()
    is_seen(story.runs.finish(driver))
    assert "[state-dump]" not in story.runs.log, "Ray's own words go to ray.log"
    assert story.runs.weights("replaced") == unbroken


@pytest.mark.fault(
    "a node dies and none takes its place",
    seen="after scaling.timeout_s `error the node … was lost and no other came within 10 s (scaling.timeout_s): there "
    "is room for 1 of 2 workers.…Continue when there is room again: heliostat train --resume …`; exit code 2",
    lost="steps since the last checkpoint, until it is resumed",
    proof="resumed with one worker it makes every update of the plan; the losses are those of the unbroken run",
)
def test_a_node_that_nobody_replaces_ends_the_run(nodes: Any, story: Any, is_seen: Callable[[str], None]) -> None:
    driver = story.begun("alone", "scaling.timeout_s=10")
    nodes.tell("kill", "127.0.0.3")
    is_seen(story.runs.finish(driver, exit_code=2))
    story.runs.run("--resume", "alone", "scaling.num_workers=1")
    story.same_losses("alone")


@pytest.mark.fault(
    "a node dies under scaling.num_workers=[1, 2]",
    seen="`warning…the node … was lost. Workers that were there start again from the last checkpoint on the nodes "
    "that are left.`",
    lost="steps since the last checkpoint are computed again, with one worker",
    proof="every update of the plan is made; the losses are those of the unbroken run",
)
def test_an_elastic_run_goes_on_with_what_is_left(nodes: Any, story: Any, is_seen: Callable[[str], None]) -> None:
    driver = story.begun("elastic", workers="scaling.num_workers=[1,2]")
    nodes.tell("kill", "127.0.0.3")
    is_seen(story.runs.finish(driver))
    story.same_losses("elastic")


@pytest.mark.fault(
    "a node is drained with a deadline, as a machine of the spot market is",
    seen="`warning…the node … is being drained and leaves in … s. Its workers save and start again elsewhere.`",
    lost="nothing: the workers save at once and move to another node",
    proof="weights of the unbroken run, to the bit; no step is computed twice",
)
def test_a_drained_node_is_left_before_its_end(
    nodes: Any, story: Any, unbroken: dict[str, str], is_seen: Callable[[str], None]
) -> None:
    driver = story.begun("drained")
    nodes.add()
    nodes.tell("drain", "127.0.0.3", 30)
    is_seen(story.runs.finish(driver))
    assert story.runs.weights("drained") == unbroken
    steps = [step for step, _ in story.losses("drained")]
    assert steps == sorted(set(steps)), "computed once"
