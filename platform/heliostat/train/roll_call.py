"""The nodes of a cluster while a training needs them: which are lost, which must leave, and when a wait is over.

Ray starts lost workers again as soon as it has room for them, and waits for that for ever. A run waits as long as it
waits for a worker: `scaling.timeout_s`. Nodes that never had a worker of the run may come and go.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import NamedTuple

from heliostat.errors import TrainError

_EVERY_S = 1.0
_SILENCE_S = 15.0
"""After this long without an answer of the head a person is told; after a minute Ray ends the process by itself."""


class NodeState(NamedTuple):
    """One node, as the cluster knows it now."""

    address: str
    room: int
    """Workers that fit it; 0 when it is lost."""
    has_worker: bool = False
    """Whether a worker of the run is there, or was when it was lost."""
    leaves_at: float | None = None
    """When it is taken away, in seconds of time.time(); 0 when nobody said; None when it stays."""


class Heard(NamedTuple):
    """What a look at the nodes brought."""

    warnings: tuple[str, ...] = ()
    end: str = ""
    """Why the training should end; empty while it should go on."""
    must_move: bool = False
    """Whether workers should save and start again elsewhere, as their node is taken away."""


class Roll:
    """Compares each look at the nodes with those before it."""

    def __init__(self, least_workers: int, timeout_s: float, run_id: str) -> None:
        self.least_workers = least_workers
        self.timeout_s = timeout_s
        self.run_id = run_id
        self._seen: Mapping[str, NodeState] = {}
        self._ours: set[str] = set()
        """Nodes that ever had a worker."""
        self._lost: list[str] = []
        """Addresses of nodes since whose loss there is no room."""
        self._lost_at = 0.0

    def heed(self, nodes: Mapping[str, NodeState], now: float, wall: float) -> Heard:
        """What is new about `nodes`, by id, at `now` on a steady clock and `wall` on that of time.time()."""
        seen, self._seen = self._seen, nodes
        self._ours |= {node for node, state in nodes.items() if state.has_worker}
        room = sum(state.room for state in nodes.values())
        ours = {node: state for node, state in seen.items() if node in self._ours and state.room}
        gone = [state.address for node, state in ours.items() if node not in nodes or not nodes[node].room]
        leaving = [nodes[node] for node, state in ours.items() if state.leaves_at is None and _leaves(nodes, node)]
        warnings = [_leaving(state, wall) for state in leaving]
        if gone:
            warnings.append(self._lost_told(gone, room))
        if room >= self.least_workers:
            if self._lost:
                warnings.append(f"there is room for {_workers(room)} again.")
            self._lost = []
        elif gone:
            self._lost_at = self._lost_at if self._lost else now
            self._lost += gone
        is_over = self._lost and now - self._lost_at > self.timeout_s
        return Heard(tuple(warnings), self._end(room) if is_over else "", bool(leaving))

    def _lost_told(self, gone: list[str], room: int) -> str:
        where = (
            "on the nodes that are left."
            if room >= self.least_workers
            else f"when another node takes its place; that may take {self.timeout_s:g} s (scaling.timeout_s)."
        )
        return f"{_nodes(gone)} lost. Workers that were there start again from the last checkpoint {where}"

    def _end(self, room: int) -> str:
        way = f"heliostat train --resume {self.run_id}"
        fewer = f", or now with fewer: {way} scaling.num_workers={room}" if room else ""
        return (
            f"{_nodes(self._lost)} lost and no other came within {self.timeout_s:g} s (scaling.timeout_s): there is "
            f"room for {room} of {_workers(self.least_workers)}. The last whole checkpoint is kept. Continue when "
            f"there is room again: {way}{fewer}"
        )


def _leaves(nodes: Mapping[str, NodeState], node: str) -> bool:
    return node in nodes and nodes[node].room > 0 and nodes[node].leaves_at is not None


def _nodes(addresses: list[str]) -> str:
    return f"the node {addresses[0]} was" if len(addresses) == 1 else f"the nodes {', '.join(addresses)} were"


def _workers(number: int) -> str:
    return f"{number} worker{'' if number == 1 else 's'}"


def _leaving(state: NodeState, wall: float) -> str:
    when = f" in {max(0.0, state.leaves_at - wall):.0f} s" if state.leaves_at else ""
    return f"the node {state.address} is being drained and leaves{when}. Its workers save and start again elsewhere."


class RollCall:
    """Looks at the cluster in a thread of its own, as a cluster whose head is away answers late or never."""

    def __init__(
        self,
        roll: Roll,
        look: Callable[[], Mapping[str, NodeState]],
        *,
        warn: Callable[[str], None],
        move: Callable[[], None],
    ) -> None:
        self.roll = roll
        self.look = look
        self.warn = warn
        self.move = move
        self._nodes: Mapping[str, NodeState] | None = None
        self._answered = time.monotonic()
        self._is_silent = False
        self._ended = threading.Event()

    def __enter__(self) -> RollCall:
        threading.Thread(target=self._work, daemon=True, name="roll-call").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _work(self) -> None:
        while not self._ended.is_set():
            with suppress(Exception):  # the head is away: what was known last still counts
                self._nodes = self.look()
                self._answered = time.monotonic()
            self._ended.wait(_EVERY_S)

    def __call__(self) -> None:
        """Warn of what is new, and let workers move. Raises TrainError when the training should end."""
        self._listen()
        if self._nodes is None:
            return
        heard = self.roll.heed(self._nodes, time.monotonic(), time.time())
        for sentence in heard.warnings:
            self.warn(sentence)
        if heard.must_move:
            self.move()
        if heard.end:
            raise TrainError(heard.end)

    def _listen(self) -> None:
        was_silent, self._is_silent = self._is_silent, time.monotonic() - self._answered > _SILENCE_S
        if self._is_silent and not was_silent:
            self.warn(
                f"the head of the cluster has not answered for {_SILENCE_S:g} s. After a minute without it Ray ends "
                f"this command; then continue with: heliostat train --resume {self.roll.run_id}"
            )
        elif was_silent and not self._is_silent:
            self.warn("the head of the cluster answers again.")


def nodes_of_ray(resources: Mapping[str, float], with_workers: Collection[str]) -> dict[str, NodeState]:
    """The nodes of the Ray that this process is connected to; a worker takes `resources` of one node."""
    import ray
    from ray._private.state import state

    leaving = state.get_draining_nodes()
    found = {}
    for node in ray.nodes():
        name, held = node["NodeID"], node["Resources"]
        room = min(int(held.get(each, 0) / amount) for each, amount in resources.items()) if node["Alive"] else 0
        leaves_at = leaving[name] / 1000 if name in leaving else None
        found[name] = NodeState(str(node["NodeManagerAddress"]), room, name in with_workers, leaves_at)
    return found
