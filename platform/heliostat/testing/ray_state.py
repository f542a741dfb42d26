"""What a Ray keeps that a deployment started: the files of its session and its store, to be searched for secrets."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from heliostat.testing.rehearsal import Fault

if TYPE_CHECKING:
    import psutil

_STORE = """
import ray, sys
from ray._private import state
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_list
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
for namespace in (None, b"serve", b"session", b"job", b"fun"):
    for key in _internal_kv_list(b"", namespace=namespace):
        sys.stdout.buffer.write(key + b" " + (_internal_kv_get(key, namespace=namespace) or b"") + b"\\n")
print(ray.util.list_named_actors(all_namespaces=True), state.actors(), state.jobs())
"""


def session_of(family: Sequence[psutil.Process]) -> Path:
    """The folder of the session whose control process is one of the family: its logs among other files.

    Raises Fault when there is none.
    """
    for line in _commands(family):
        if "gcs_server" in line:
            found = re.search(r"--log_dir=(\S+)/logs", line) or re.search(r"--session-dir=(\S+)", line)
            if not found:
                raise Fault(f"the control process of Ray names no folder: {line}")
            return Path(found[1])
    raise Fault("none of these processes is the control process of Ray.")


def stored_in_ray(family: Sequence[psutil.Process]) -> bytes:
    """What its own store holds, as a program that joins it sees it: all keys and values, actors and jobs.

    Raises Fault when no controller of Serve is among them: then the store was not read, or it is another one.
    """
    found = (re.search(r"--gcs[-_]address=(\S+)", line) for line in _commands(family))
    address = next((each[1] for each in found if each), None)
    if address is None:
        raise Fault("none of these processes names the address of a Ray.")
    command = [sys.executable, "-c", _STORE, address]
    environment = {**os.environ, "RAY_AUTH_MODE": "token"}
    done = subprocess.run(command, capture_output=True, timeout=60, env=environment)
    if b"ServeController" not in done.stdout:
        raise Fault(f"the store of Ray knows no controller of Serve: {done.stderr[-2000:].decode(errors='replace')}")
    return done.stdout


def _commands(family: Sequence[psutil.Process]) -> list[str]:
    import psutil

    found = []
    for process in family:
        with contextlib.suppress(psutil.Error):  # it has ended
            found.append(" ".join(process.cmdline()))
    return found
