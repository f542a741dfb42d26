"""Warm processes on a Ray cluster: actors, each of which trains one trial after the other."""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from heliostat.errors import TrainError
from heliostat.home import home
from heliostat.train.wire import take_wire
from heliostat.tune.preflight import Machines

_PATIENCE_S = 60.0
"""How long Ray may take to find room that it said it had."""


class Desk:
    """The actor. `place.serve` works in a thread of it, and this is its line to the driver."""

    def __init__(self) -> None:
        self.host = ray.util.get_node_ip_address()
        take_wire(self.host)
        self._orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True, name="trials").start()

    def tell(self, order: dict[str, Any]) -> None:
        """What the driver calls with an order or an answer."""
        self._orders.put(order)

    def hear(self) -> dict[str, Any] | None:
        """What the driver calls for the next message; None when there will be none."""
        return self._messages.get()

    def send(self, message: Mapping[str, Any]) -> None:
        """Tell the driver."""
        self._messages.put(dict(message))

    def receive(self) -> dict[str, Any]:
        """Wait for what the driver says; when it is gone, Ray ends this process."""
        return self._orders.get()

    def _serve(self) -> None:
        try:
            from heliostat.tune.place import serve

            serve(self)
        except BaseException:
            traceback.print_exc()
        self._messages.put(None)


class Hired:
    """One actor, as the driver sees it."""

    def __init__(self, actor: Any, group: PlacementGroup, log: Path) -> None:
        self.actor, self.group, self.log = actor, group, log
        self.coming: Any = actor.hear.remote()
        """The next message."""
        self.is_gone = False

    def send(self, message: Mapping[str, Any]) -> None:
        """Tell it; one that is gone hears nothing."""
        self.actor.tell.remote(dict(message))

    def receive(self) -> dict[str, Any] | None:
        """The next message; None from an actor that is gone."""
        try:
            message: dict[str, Any] | None = ray.get(self.coming)
        except RayError:
            message = None
        if message is None:
            self.is_gone = True
            return None
        self.coming = self.actor.hear.remote()
        if "trace" in message:  # what it printed itself lies on its own machine
            with self.log.open("a", encoding="utf-8") as log:
                log.write(message["trace"])
        return message


class Actors:
    """Actors with `threads` CPUs each, and a GPU where `has_gpus`. It implements `pool.Source`; Ray is connected."""

    told_late_s = 3.0

    def __init__(self, threads: int, log: Path, *, has_gpus: bool) -> None:
        self.threads, self.log, self.has_gpus = threads, log, has_gpus
        self._hired: list[Hired] = []

    def start(self) -> None:
        """Nothing is needed but Ray."""

    def hire(self, number: int) -> list[Hired]:
        """So many actors, on one machine where one has room for all. Raises TrainError when Ray finds no room."""
        bundle = {"CPU": float(self.threads), **({"GPU": 1.0} if self.has_gpus else {})}
        group = placement_group([bundle] * number, strategy="PACK")
        if not group.wait(_PATIENCE_S):
            remove_placement_group(group)
            free = ray.available_resources().get("CPU", 0.0)
            raise TrainError(
                f"Ray has found no room for {number} x {self.threads} CPUs in {_PATIENCE_S:g} s: {free:g} are free, "
                "the others are somebody else's. Try again later, or with fewer tune.concurrent."
            )
        hired = [self._hire(group, place) for place in range(number)]
        self._hired += hired
        return hired

    def wait(self, processes: Sequence[Hired], timeout_s: float) -> list[Hired]:
        """Those that have something to say, or are gone."""
        by_message = {each.coming: each for each in processes if not each.is_gone}
        if not by_message:
            return []
        some, _ = ray.wait(list(by_message), timeout=timeout_s)
        ready, _ = ray.wait(list(by_message), num_returns=len(by_message), timeout=0) if some else ([], [])
        return [by_message[each] for each in ready]

    def dismiss(self, processes: Sequence[Hired]) -> None:
        """End them at once, and give back what they hold."""
        for each in processes:
            with suppress(RayError):
                ray.kill(each.actor)
            if each in self._hired:
                self._hired.remove(each)
        for group in {each.group.id: each.group for each in processes}.values():
            with suppress(RayError):
                remove_placement_group(group)

    def close(self) -> None:
        """End all of them."""
        self.dismiss(list(self._hired))

    def _hire(self, group: PlacementGroup, bundle: int) -> Hired:
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
        actor = ray.remote(Desk).options(
            num_cpus=self.threads,
            num_gpus=1 if self.has_gpus else 0,
            runtime_env={"env_vars": {"HELIOSTAT_HOME": str(home())}},  # where data that a trial prepares lie for all
            max_concurrency=4,  # one of them waits in `hear`
            scheduling_strategy=strategy,
        ).remote()  # fmt: skip
        return Hired(actor, group, self.log)


def machines() -> Machines:
    """What the cluster has, and what of it is free now. Ray is connected."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    free = ray.available_resources()
    return Machines(
        tuple(int(each.get("CPU", 0)) for each in alive),
        free=int(free.get("CPU", 0)),
        gpus=int(sum(each.get("GPU", 0) for each in alive)),
        free_gpus=int(free.get("GPU", 0)),
        is_cluster=True,
    )
