"""Two nodes that reach each other by a wire alone, which may be cut: each in a network and a /tmp of its own."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from heliostat import checkpoint

HERE, THERE = "10.99.0.1", "10.99.0.2"
RUN = [
    "sentiment/tiny",
    "data.limit=300",
    "train.precision=fp32",
    "train.log_every=1",
    "train.tokens_per_batch=1024",
    "encoder.vocab_size=600",
    "head.dropout=0.0",  # it is drawn anew for each rank
]


class Machine:
    """A process with a network of its own, which becomes a node of Ray when the wire is there."""

    def __init__(self, tmp: Path, env: dict[str, str], words: list[str]) -> None:
        self.env = env
        self.end_of_wire = ""
        ray = f'exec "{sys.executable}" -m ray.scripts.scripts start "$@" >/dev/null 2>&1'
        self.process = subprocess.Popen(
            [
                "unshare",
                "-n",
                "-m",
                "sh",
                "-c",
                f"mount -t tmpfs none {tmp} && echo apart && read go && {ray}",
                "ray",
                *words,
                "--num-cpus=1",
                "--block",
            ],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "apart\n"

    def wire(self, end: str, address: str) -> None:
        self.end_of_wire = end
        _run("ip", "link", "set", end, "netns", str(self.process.pid))
        self.ip("link", "set", "lo", "up")
        self.ip("addr", "add", f"{address}/24", "dev", end)
        self.plug("up")

    def ip(self, *words: str) -> None:
        """A setting of this machine's network."""
        self.run("ip", *words)

    def run(self, *words: str, timeout: float = 10) -> None:
        """A command in this machine's network, which must succeed."""
        inside = ["nsenter", "-t", str(self.process.pid), "-n", *words]
        subprocess.run(inside, check=True, capture_output=True, timeout=timeout)

    def plug(self, state: str) -> None:
        """The end of the wire is put in (up) or pulled out (down)."""
        self.ip("link", "set", self.end_of_wire, state)

    def start(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def starts(self, *words: str, **env: str) -> subprocess.Popen[str]:
        """A Python on this machine."""
        return subprocess.Popen(
            ["nsenter", "-t", str(self.process.pid), "-n", "-m", sys.executable, *words],
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def python(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """A finished Python on this machine."""
        process = self.starts(*words, **env)
        try:
            told, _ = process.communicate(timeout=200)
        finally:
            process.kill()
        return subprocess.CompletedProcess(words, process.returncode, told)

    def end(self) -> None:
        family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        self.process.send_signal(signal.SIGTERM)
        for child in psutil.wait_procs(family, timeout=15)[1]:
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                child.kill()
        self.process.wait()


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    ends = [f"hs{letter}{secrets.token_hex(3)}" for letter in "ab"]
    if os.geteuid() or not shutil.which("ip") or subprocess.run(["unshare", "-n", "-m", "true"]).returncode:
        pytest.skip("networks of their own are laid by root alone (ip, unshare)")
    short = Path(tempfile.mkdtemp(prefix="hr-", dir="/tmp"))
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"RAY_TMPDIR": str(short), "HELIOSTAT_HOME": str(tmp_path / "home"), "RAY_AUTH_MODE": "disabled"}
    first = ["--head", f"--node-ip-address={HERE}", "--port=6379", "--include-dashboard=false"]
    pair = (
        Machine(short, env, first),
        Machine(short, env, [f"--address={HERE}:6379", f"--node-ip-address={THERE}"]),
    )
    try:
        if subprocess.run(["ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1]]).returncode:
            pytest.skip("no wire can be laid here (veth)")
        for machine, end, address in zip(pair, ends, (HERE, THERE), strict=True):
            machine.wire(end, address)
        pair[0].start()
        pair[0].run("bash", "-c", f"until echo > /dev/tcp/{HERE}/6379; do sleep 0.2; done", timeout=90)
        pair[1].start()
        yield pair
    finally:
        for machine in pair:
            machine.end()
        subprocess.run(["ip", "link", "del", ends[0]], capture_output=True)
        shutil.rmtree(short, ignore_errors=True)


TWO = """
import ray, sys, time
ray.init(address=sys.argv[1], log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) < 2:
    time.sleep(0.2)
"""


def _losses(home: Path, run_id: str) -> list[float]:
    rows = [json.loads(line) for line in (home / "runs" / run_id / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def _both(here: Machine) -> None:
    there = here.python("-c", TWO, f"{HERE}:6379")
    assert there.returncode == 0, there.stdout


def _weights(home: Path, run_id: str) -> dict[str, Any]:
    files = checkpoint.verify(max((home / "runs" / run_id / "checkpoints").glob("step-*")))["files"]
    return {name: told for name, told in files.items() if name.endswith(".safetensors")}


@pytest.mark.sweep
def test_the_loss_over_the_wire_is_that_of_one_machine(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    here, _ = machines
    alone = here.python(
        "-m",
        "heliostat",
        "train",
        *RUN,
        "train.epochs=1",
        "scaling.num_workers=1",
        "--run-id",
        "alone",
        "--no-evaluate",
    )
    assert alone.returncode == 0, alone.stdout
    _both(here)
    words = [
        "-m",
        "heliostat",
        "train",
        *RUN,
        "train.epochs=1",
        "scaling.num_workers=2",
        "--run-id",
        "wire",
        "--no-evaluate",
    ]
    together = here.python(*words, RAY_ADDRESS=f"{HERE}:6379")
    assert together.returncode == 0, together.stdout
    assert "ddp on 2 x cpu" in together.stdout
    losses = _losses(tmp_path / "home", "alone")
    assert len(losses) > 5
    assert _losses(tmp_path / "home", "wire") == pytest.approx(losses, rel=1e-4)


LONGER = [*RUN, "train.epochs=8", "train.checkpoint_every=3", "scaling.num_workers=2", "--no-evaluate"]


def _cut(machines: tuple[Machine, Machine], home: Path, run_id: str, *more: str) -> subprocess.Popen[str]:
    """A training on both machines whose wire was pulled out after some steps."""
    here, there = machines
    _both(here)
    driver = here.starts(
        "-m", "heliostat", "train", *LONGER, *more, "--run-id", run_id, RAY_ADDRESS=f"{HERE}:6379", COLUMNS="400"
    )
    journal, deadline = home / "runs" / run_id / "metrics.jsonl", time.monotonic() + 120
    while not journal.exists() or len(journal.read_text().splitlines()) < 10:
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline, "it never trained"
        time.sleep(0.02)
    there.plug("down")
    return driver


@pytest.mark.sweep
@pytest.mark.fault(
    "the network between two nodes is cut and comes back after 15 s",
    seen="nothing: the step stands still for that long",
    lost="nothing",
    proof="weights of an unbroken run over the same wire, to the bit; no worker started again",
)
def test_a_wire_that_is_cut_and_mended(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    here, there = machines
    home = tmp_path / "home"
    driver = _cut(machines, home, "mended")
    try:
        time.sleep(15)
        there.plug("up")
        told, _ = driver.communicate(timeout=200)
    finally:
        driver.kill()
    assert driver.returncode == 0, told
    assert "warning" not in told
    unbroken = here.python("-m", "heliostat", "train", *LONGER, "--run-id", "unbroken", RAY_ADDRESS=f"{HERE}:6379")
    assert unbroken.returncode == 0, unbroken.stdout
    assert _weights(home, "mended") == _weights(home, "unbroken")


@pytest.mark.sweep
@pytest.mark.fault(
    "the network between two nodes is cut for good",
    seen="Ray gives the node up after a minute, and scaling.timeout_s after that `error the node 10.99.0.2 was lost "
    "and no other came within 20 s (scaling.timeout_s): there is room for 1 of 2 workers.`; exit code 2",
    lost="steps since the last checkpoint, until it is resumed",
    proof="every update of the plan is made when it is resumed on the node that is left, from the newest checkpoint",
)
def test_a_wire_that_is_cut_for_good(
    machines: tuple[Machine, Machine], tmp_path: Path, is_seen: Callable[[str], None]
) -> None:
    here, _ = machines
    home = tmp_path / "home"
    driver = _cut(machines, home, "cut", "scaling.timeout_s=20")
    try:
        told, _ = driver.communicate(timeout=240)
    finally:
        driver.kill()
    assert driver.returncode == 2, told
    is_seen(told)
    steps = [int(path.parent.name[5:]) for path in (home / "runs" / "cut" / "checkpoints").glob("*/manifest.json")]
    words = ["-m", "heliostat", "train", "--resume", "cut", "scaling.num_workers=1", "--no-evaluate"]
    again = here.python(*words)
    assert again.returncode == 0, again.stdout
    assert max(steps) > 0
    rows = [json.loads(line)["step"] for line in (home / "runs" / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert sorted(set(rows)) == list(range(1, max(rows) + 1))
    assert int(re.findall(r"(\d+) steps in", again.stdout)[0]) == max(rows)
