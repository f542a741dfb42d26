"""Processes of Ray that begin with torch and Ray imported: forks of one server, in place of seconds of imports each.

Ray starts a process for every actor: some eight for one training, each with two to five seconds of imports. Within
`fork_server` the worker command of a Ray that starts here is `ask.py`: it asks the server for a fork that becomes the
worker. A fork shares the memory of what is imported. Whatever is in the way - no Linux, a server that died, a runtime
environment with another Python - leads back to the process that Ray would have started without us.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ADDRESS = "HELIOSTAT_FORK_SERVER"
"""The environment variable that tells Ray's processes where the server listens."""
SWITCH = "HELIOSTAT_FORKS"
"""The environment variable that turns all of this off when it is 0."""
MODULES = (
    "heliostat.train.loop",
    "heliostat.train.evaluator",
    "heliostat.core",
    "heliostat.encoders.text_module",
    "heliostat.heads.classification_module",
    "transformers.models.bert.modeling_bert",
    "tokenizers",
    "pyarrow.fs",
    "pandas",
    "fsspec",
    "requests",
)
"""What is imported while Ray starts: what a training needs, and what Ray itself will."""
MODULES_OF_RAY = ("ray.train.torch", "heliostat.train.on_ray", "heliostat.train.ray_worker")
"""What is imported when Ray is there."""
_BACKLOG = 128
_PATIENCE_S = 15.0
_BEFORE_IMPORTS = {
    "OMP_NUM_THREADS": "1",  # a pool of threads would not live on in a fork
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}


@contextmanager
def fork_server(log: Path, modules: Sequence[str] = MODULES, of_ray: Sequence[str] = MODULES_OF_RAY) -> Iterator[bool]:
    """Whether a Ray that starts in this context forks its processes: a server for that ends with the context.

    To be left after Ray has ended; forks that did not end with it are killed. Not where the system cannot fork well,
    or where Ray runs elsewhere. Within such a context a second one changes nothing. What the server says goes to `log`.
    """
    is_there, is_elsewhere = ADDRESS in os.environ, bool(os.environ.get("RAY_ADDRESS"))
    if is_there or is_elsewhere or sys.platform != "linux" or os.environ.get(SWITCH) == "0":
        yield is_there and not is_elsewhere
        return
    folder = Path(tempfile.mkdtemp(prefix="heliostat-forks-"))  # 0700: who may connect may run code
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(folder / "socket"))
    except OSError:  # a temporary folder with a name too long for a socket
        listener.close()
        shutil.rmtree(folder, ignore_errors=True)
        yield False
        return
    listener.listen(_BACKLOG)
    ours, theirs = os.pipe()
    with listener, log.open("ab") as output:
        words = [str(listener.fileno()), str(ours), str(folder), *modules, "--", *of_ray]
        server = subprocess.Popen(
            [sys.executable, "-P", "-m", "heliostat.forks.server", *words],
            env={**os.environ, **_BEFORE_IMPORTS},
            pass_fds=(listener.fileno(), ours),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C in the terminal is for us, and we end it
        )
    os.close(ours)
    os.environ[ADDRESS] = str(folder / "socket")
    try:
        with _asked_by_ray():
            yield True
    finally:
        os.environ.pop(ADDRESS, None)
        os.close(theirs)  # which tells the server to end
        with suppress(subprocess.TimeoutExpired):
            server.wait(_PATIENCE_S)
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _asked_by_ray() -> Iterator[None]:
    """Let a Ray that starts here start its workers by `ask.py`."""
    from ray._private import ray_constants

    before = ray_constants.SETUP_WORKER_FILENAME
    # Ray joins it to a folder of its own; an absolute path stays as it is.
    ray_constants.SETUP_WORKER_FILENAME = str(Path(__file__).with_name("ask.py"))
    try:
        yield
    finally:
        ray_constants.SETUP_WORKER_FILENAME = before


def expect_workers() -> None:
    """Tell the server of the Ray that has just started here, so that it imports ahead of the first worker."""
    import ray
    from ray._private.worker import _global_node

    address, raylets = os.environ.get(ADDRESS), _global_node.all_processes.get("raylet") if _global_node else None
    if not address or not raylets:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX) as server:
        server.settimeout(1.0)
        server.connect(address)
        server.sendall(key_of(ray.get_runtime_context().get_job_id(), raylets[0].process.pid))


def key_of(job: str, raylet: int | str) -> bytes:
    """What names a second server: Ray's library reads both when it is loaded."""
    return f"{job} {raylet}".ljust(64).encode()
