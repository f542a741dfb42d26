"""A fork becomes the worker that Ray asked for: its environment, its files, its words."""

from __future__ import annotations

import os
import random
import resource
import runpy
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple


class Order(NamedTuple):
    """What a fork becomes."""

    told: dict[str, Any]
    """What `ask.py` found itself to be."""
    streams: list[int]
    """Standard input, output and error."""


def become(order: Order) -> None:
    """Run the worker that was asked for in this process, as if Ray had started it."""
    words = order.told["words"]
    os.setpgid(0, 0)
    for number, stream in enumerate(order.streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(order.told["environment"])
    try:
        _place(order.told)
        _start_afresh(order.told["variables"])
    except Exception as error:  # better late than never: Ray waits a minute for a worker that died
        print(f"a fork could not become a worker: {error!r}", file=sys.stderr, flush=True)
        os.environ.update(order.told["variables"])
        os.execv(sys.executable, [sys.executable, *words])
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).parent))
    runpy.run_path(words[0], run_name="__main__")


def _place(told: dict[str, Any]) -> None:
    os.chdir(told["folder"])
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(told["files"][0], most), most))
    if told["niceness"] > os.getpriority(os.PRIO_PROCESS, 0):
        os.setpriority(os.PRIO_PROCESS, 0, told["niceness"])
    signal.pthread_sigmask(signal.SIG_SETMASK, told["blocked"])


def _start_afresh(variables: dict[str, str]) -> None:
    """What a process of its own would have found when it imported."""
    from ray import _raylet
    from ray._private.utils import update_envs

    library: Any = _raylet
    update_envs(variables)
    library.Config.initialize("")  # Ray read its own variables when it was imported
    library.AuthenticationTokenLoader.instance().reset_cache()
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(max(1, int(threads)))
