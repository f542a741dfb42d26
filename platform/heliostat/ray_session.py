"""A quiet Ray to work on: what Ray says goes to a log file, and a Ray of our own ends with us."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from heliostat.forks import expect_workers, fork_server


@contextmanager
def ray_session(log: Path) -> Iterator[None]:
    """The Ray we are connected to, the one of `RAY_ADDRESS`, or one of our own that ends with this context.

    What Ray says goes to `log`, not to the screen.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray runs workers at nice 15: any other program would starve a training, or the deployment behind a page.
    os.environ.setdefault("RAY_worker_niceness", "0")
    if not os.environ.get("RAY_ADDRESS"):  # nobody takes the one machine of a Ray of our own away
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    with stderr_to(log), _words_to(log), fork_server(log) as is_forking:
        if is_forking:  # no workers before they are wanted: two processors have enough to do then
            os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
        try:
            with _own_signals():
                ray.init(
                    address=os.environ.get("RAY_ADDRESS"),
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=None if os.environ.get("RAY_ADDRESS") else False,
                )
            close_token()
            if not os.environ.get("RAY_ADDRESS"):
                _end_log_monitor()
            expect_workers()
            yield
        finally:
            ray.shutdown()


def is_elsewhere() -> bool:
    """Whether a `ray_session` will work on a Ray that somebody else started, or that we are connected to already."""
    ray = sys.modules.get("ray")
    return bool(os.environ.get("RAY_ADDRESS")) or bool(ray and ray.is_initialized())


@contextmanager
def coming_session(log: Path) -> Iterator[None]:
    """Within it a `ray_session` will be entered: what its workers need is imported already, in another process."""
    ray = sys.modules.get("ray")
    with nullcontext() if ray and ray.is_initialized() else fork_server(log):
        yield


def token_path() -> Path:
    """The file of the token that guards Ray's ports, which need not be there."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").expanduser()


def close_token(path: Path | None = None) -> None:
    """Let nobody else read the token that guards Ray's ports, or another one: Ray writes it for all to read."""
    path = path or token_path()
    if path.is_file() and path.stat().st_uid == os.getuid():
        path.chmod(0o600)


def _end_log_monitor() -> None:
    """End the process that reads every log ten times a second, for drivers that print what workers say: we do not."""
    from ray._private import worker

    node = worker._global_node
    if node is not None:
        node.kill_log_monitor(check_alive=False)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Put back who answers Ctrl-C and SIGTERM: Ray's own answer to SIGTERM aborts the process and saves nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except SystemExit:
        signal.alarm(0)  # Ray's C++ side saw the SIGTERM too, and would abort this process 3 s later
        raise
    finally:
        for number, answer in own.items():
            if answer is not None:  # None: it was set outside of Python, and cannot be set from here
                signal.signal(number, answer)


@contextmanager
def _words_to(log: Path) -> Iterator[None]:
    """Send what Ray has to say of nodes that died, with a hundred lines of their state, to the log: it prints them."""
    from ray._private import worker

    own = worker.print_to_stdstream

    def write(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in data["lines"])

    worker.print_to_stdstream = write
    try:
        yield
    finally:
        worker.print_to_stdstream = own


@contextmanager
def stderr_to(log: Path) -> Iterator[None]:
    """Send this process's standard error, Ray's C++ side included, to a file."""
    saved = os.dup(2)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
