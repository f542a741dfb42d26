"""What Ray starts in place of a worker: it asks the fork server for one, and ends.

A script that imports next to nothing, as Ray waits for it. Called as Ray calls its `setup_worker.py`, and where no fork
can be had it becomes the process that Ray would have started.
"""

from __future__ import annotations

import array
import json
import os
import resource
import signal
import socket
import sys

_PATIENCE_S = 45.0
"""Longer than the server takes for its imports; Ray itself gives a worker 60 s."""
_CONTEXT = "--serialized-runtime-env-context="
_LANGUAGE = "--language="
_WORKER = "default_worker.py"
_LOADED_BY = ("PYTHON", "LD_", "OMP_", "MKL_", "OPENBLAS_")
"""Beginnings of variables that count when a process starts or loads a library: too late for a fork."""


def main(words: list[str]) -> None:
    """Ask, or else become the worker."""
    context = next((word.removeprefix(_CONTEXT) for word in words if word.startswith(_CONTEXT)), "{}")
    if _fits(words, json.loads(context)):
        own = [word for word in words if not word.startswith((_CONTEXT, _LANGUAGE))]
        if _fork(own, json.loads(context).get("env_vars") or {}):
            return
    has_context = any(word.startswith(_LANGUAGE) for word in words)
    worker = next((word for word in words if word.endswith(_WORKER)), "")
    setup = [worker.removesuffix(_WORKER) + "setup_worker.py"] if has_context else []
    os.execv(sys.executable, [sys.executable, *setup, *words])


def _fits(words: list[str], context: dict[str, object]) -> bool:
    """Whether a fork can be what is asked for: this Python, with other variables at most."""
    variables = context.get("env_vars") or {}
    return (
        words[:1] != []
        and words[0].endswith(_WORKER)
        and not any(word.startswith(_LANGUAGE) and word != f"{_LANGUAGE}PYTHON" for word in words)
        and not context.get("command_prefix")
        and not context.get("override_worker_entrypoint")
        and context.get("py_executable") in (None, sys.executable)
        and isinstance(variables, dict)
        and not any(name.startswith(_LOADED_BY) for name in variables)
    )


def _fork(words: list[str], variables: dict[str, str]) -> bool:
    """Whether the server has forked a process that now is the worker."""
    order = {
        "words": words,
        "variables": variables,
        "environment": dict(os.environ),
        "folder": os.getcwd(),  # noqa: PTH109 - pathlib would take as long as all the rest here
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
    }
    data = json.dumps(order).encode()
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.settimeout(_PATIENCE_S)
            server.connect(os.environ["HELIOSTAT_FORK_SERVER"])
            # Ray reads these two when its library is loaded: they name the server that has loaded it so.
            server.sendall(f"{os.environ['RAY_JOB_ID']} {os.environ['RAY_RAYLET_PID']}".ljust(64).encode())
            streams = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
            server.sendmsg([len(data).to_bytes(8, "big")], streams)
            server.sendall(data)
            return bool(server.recv(16))
    except (OSError, KeyError):
        return False


if __name__ == "__main__":
    main(sys.argv[1:])
