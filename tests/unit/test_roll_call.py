"""Who is called lost, who is told to move, and when a wait for room is over."""

from __future__ import annotations

import pytest

from heliostat.train.roll_call import NodeState, Roll

HERE, THERE = NodeState("10.0.0.1", 1, has_worker=True), NodeState("10.0.0.2", 1, has_worker=True)
LOST = THERE._replace(room=0)


def test_a_lost_node_is_told_once_and_waited_for() -> None:
    roll = Roll(2, 30.0, "mine")
    assert roll.heed({"a": HERE, "b": THERE}, 0.0, 0.0) == ((), "", False)
    (told,), end, must_move = roll.heed({"a": HERE, "b": LOST}, 10.0, 0.0)
    assert "the node 10.0.0.2 was lost" in told
    assert "when another node takes its place; that may take 30 s" in told
    assert (end, must_move) == ("", False)
    assert roll.heed({"a": HERE, "b": LOST}, 40.0, 0.0) == ((), "", False)
    end = roll.heed({"a": HERE, "b": LOST}, 40.5, 0.0).end
    assert "no other came within 30 s (scaling.timeout_s): there is room for 1 of 2 workers" in end
    assert end.endswith("heliostat train --resume mine scaling.num_workers=1")


def test_a_node_that_comes_ends_the_wait() -> None:
    roll = Roll(2, 30.0, "mine")
    roll.heed({"a": HERE, "b": THERE}, 0.0, 0.0)
    roll.heed({"a": HERE, "b": LOST}, 10.0, 0.0)
    both = {"a": HERE, "b": LOST, "c": NodeState("10.0.0.3", 1)}
    assert roll.heed(both, 35.0, 0.0).warnings == ("there is room for 2 workers again.",)
    assert roll.heed(both, 100.0, 0.0) == ((), "", False)


def test_a_run_that_waits_for_its_turn_waits_as_long_as_it_takes() -> None:
    roll = Roll(4, 30.0, "mine")
    assert all(roll.heed({"a": HERE}, float(now), 0.0) == ((), "", False) for now in range(0, 1000, 10))


def test_with_fewer_workers_allowed_there_is_no_wait() -> None:
    roll = Roll(1, 30.0, "mine")
    roll.heed({"a": HERE, "b": THERE}, 0.0, 0.0)
    (told,), _, _ = roll.heed({"a": HERE, "b": LOST}, 10.0, 0.0)
    assert told.endswith("from the last checkpoint on the nodes that are left.")
    assert roll.heed({"a": HERE, "b": LOST}, 100.0, 0.0) == ((), "", False)


@pytest.mark.parametrize("end", [LOST, None])
def test_nodes_without_a_worker_of_the_run_may_come_and_go(end: NodeState | None) -> None:
    roll = Roll(1, 30.0, "mine")
    stranger = THERE._replace(has_worker=False)
    roll.heed({"a": HERE, "b": stranger}, 0.0, 0.0)
    assert roll.heed({"a": HERE, "b": stranger._replace(leaves_at=5.0)}, 1.0, 0.0) == ((), "", False)
    left = {"a": HERE} | ({"b": end._replace(has_worker=False)} if end else {})
    assert roll.heed(left, 2.0, 0.0) == ((), "", False)


def test_workers_of_a_node_that_is_drained_are_told_to_move_once() -> None:
    roll = Roll(2, 30.0, "mine")
    roll.heed({"a": HERE, "b": THERE}, 0.0, 100.0)
    drained = {"a": HERE, "b": THERE._replace(leaves_at=130.0)}
    (told,), _, must_move = roll.heed(drained, 1.0, 101.0)
    assert told == (
        "the node 10.0.0.2 is being drained and leaves in 29 s. Its workers save and start again elsewhere."
    )
    assert must_move
    assert roll.heed(drained, 2.0, 102.0) == ((), "", False)
