"""The process group of Ray Train's workers, over the wire by which Ray knows their nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.train.torch import TorchConfig

from heliostat.train.wire import take_wire


def _take_wire_of_node() -> None:
    import ray

    take_wire(ray.util.get_node_ip_address())


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(_take_wire_of_node)
        super().on_start(worker_group, backend_config)


@dataclass
class GroupConfig(TorchConfig):  # type: ignore[misc]
    """Ray's own, but for the interface that gloo takes."""

    @property
    def backend_cls(self) -> type:
        """What makes the group."""
        return _Backend
