"""The servers of serve.py, and how any server is started, waited for and ended, and what its processes spend."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from environments import python_of
from rounds import HERE

OURS, RAY, HAPROXY = "heliostat", "ray serve", "ray serve, haproxy"
PIPELINE, LITSERVE, BENTOML, ONNX = "pipeline", "litserve", "bentoml", "onnx"
PATHS = {OURS: "/v1/models/sentiment:predict"}
FLAGS: dict[str, dict[str, str]] = {
    PIPELINE: {"WORKERS": "2", "OMP_NUM_THREADS": "1"},
    LITSERVE: {"WORKERS": "2", "OMP_NUM_THREADS": "1", "BATCH": "16", "WAIT_S": "0.005"},
    BENTOML: {"WORKERS": "2", "OMP_NUM_THREADS": "1", "BATCH": "16"},
    ONNX: {"WORKERS": "2", "OMP_NUM_THREADS": "1"},
    HAPROXY: {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
}
"""A process a core, which answered more here than one process of two threads; waits as their documentations show."""
MANY = {PIPELINE: {"WORKERS": "1", "OMP_NUM_THREADS": "2"}}
"""At 64 connections, where that was otherwise."""


@contextmanager
def served(
    side: str, checkpoint: Path, replicas: int, connections: int
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The server of a side, once it answers; none of its processes is left behind."""
    port = free_port()
    environment = {**os.environ, "CHECKPOINT": str(checkpoint), **FLAGS.get(side, {})}
    environment |= MANY.get(side, {}) if connections > 16 else {}
    command = command_of(side, port, checkpoint)
    if side == OURS:
        command += ["--replicas", str(replicas), "--threads", "1"]
    with running(command, lambda: ask(side, port, "Lovely."), environment) as process:
        yield port, process


def free_port() -> int:
    """A port of the loopback interface that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str], ask_it: Callable[[], Any], environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server, once `ask_it` raises no OSError; none of its processes is left behind."""
    process = subprocess.Popen(command, env=environment, cwd=HERE, start_new_session=True)
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                ask_it()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{' '.join(command)} does not answer") from None
                time.sleep(0.2)
        yield process
    finally:
        _end(process)


def command_of(side: str, port: int, checkpoint: Path) -> list[str]:
    """How a side's server is started."""
    if side == OURS:
        return [sys.executable, "-m", "heliostat", "serve", str(checkpoint), "--port", str(port)]
    if side in (RAY, HAPROXY):
        return [sys.executable, str(HERE / "serve_plain.py"), str(port), str(checkpoint)]
    python = python_of(HERE / "serve_peers.txt")
    if side == BENTOML:
        return [
            python,
            "-m",
            "bentoml",
            "serve",
            "serve_peer_bento:Reviews",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
    return [python, str(HERE / "serve_peer.py"), side, str(port), str(checkpoint)]


def _end(process: subprocess.Popen[bytes]) -> None:
    import psutil

    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
    _, left = psutil.wait_procs(family, timeout=5)
    for each in left:
        each.kill()


def family_cpu(pid: int) -> float:
    """CPU seconds that a process and its living descendants have spent."""
    import psutil

    total, here = 0.0, psutil.Process(pid)
    for each in (here, *here.children(recursive=True)):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def body_of(side: str, text: str) -> dict[str, Any]:
    """A request as a side takes it."""
    if side == OURS:
        return {"instances": [{"text": text}]}
    return {"texts": [text]} if side == BENTOML else {"text": text}


def ask(side: str, port: int, text: str) -> dict[str, float]:
    """The probability of each label."""
    body = json.dumps(body_of(side, text)).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{PATHS.get(side, '/predict')}", body)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:
        told = json.loads(answer.read())
    found: dict[str, float] = told["predictions"][0]["probabilities"] if side == OURS else told
    return found[0] if side == BENTOML else found  # type: ignore[index, return-value]
