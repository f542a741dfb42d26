"""A run -> its prepared data, made in this process or by Ray Data, whichever fits the source.

Both engines drive the same functions of `heliostat.data` and make the same examples, splits and key.
"""

from __future__ import annotations

import sys
from typing import Any, Literal

from heliostat.data.prepared import Prepared
from heliostat.run import Run

LARGE_SOURCE_BYTES = 512 * 2**20
"""A source above this size is prepared on Ray where the run leaves the choice."""


def prepare(run: Run, *, on_progress: Any = None) -> Prepared:
    """The prepared data of `run`; made now if they are not there yet.

    Raises DataError when the source cannot be read or its records do not fit the run.
    """
    from heliostat.data.prepare import prepare as prepare_locally

    return prepare_locally(run, on_progress=on_progress)


def choose_engine(engine: Literal["auto", "local", "ray"], size_bytes: int) -> Literal["local", "ray"]:
    """What drives the preparation: `auto` takes Ray for a large source, or where a cluster of several nodes is connected."""
    if engine != "auto":
        return engine
    return "ray" if size_bytes > LARGE_SOURCE_BYTES or _on_several_nodes() else "local"


def _on_several_nodes() -> bool:
    ray = sys.modules.get("ray")  # a process that has not imported Ray is connected to no cluster
    if ray is None or not ray.is_initialized():
        return False
    return sum(bool(node["Alive"]) for node in ray.nodes()) > 1
