"""Two nodes that reach each other by a wire alone: each in a network and a temporary folder of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

HERE, THERE = "10.99.0.1", "10.99.0.2"
RUN = [
    "sentiment/tiny",
    "data.limit=300",
    "train.epochs=1",
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
        _run("ip", "link", "set", end, "netns", str(self.process.pid))
        for words in (
            ["link", "set", "lo", "up"],
            ["addr", "add", f"{address}/24", "dev", end],
            ["link", "set", end, "up"],
        ):
            _run("nsenter", "-t", str(self.process.pid), "-n", "ip", *words)

    def start(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def python(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """A finished Python on this machine."""
        inside = ["nsenter", "-t", str(self.process.pid), "-n", "-m"]
        return subprocess.run(
            [*inside, sys.executable, *words],
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
        )

    def end(self) -> None:
        family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        self.process.send_signal(signal.SIGTERM)
        for child in psutil.wait_procs(family, timeout=15)[1]:
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
        for machine in pair:
            machine.start()
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


@pytest.mark.sweep
def test_the_loss_over_the_wire_is_that_of_one_machine(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    here, _ = machines
    alone = here.python("-m", "heliostat", "train", *RUN, "scaling.num_workers=1", "--run-id", "alone", "--no-evaluate")
    assert alone.returncode == 0, alone.stdout
    there = here.python("-c", TWO, f"{HERE}:6379")
    assert there.returncode == 0, there.stdout
    words = ["-m", "heliostat", "train", *RUN, "scaling.num_workers=2", "--run-id", "wire", "--no-evaluate"]
    together = here.python(*words, RAY_ADDRESS=f"{HERE}:6379")
    assert together.returncode == 0, together.stdout
    assert "ddp on 2 x cpu" in together.stdout
    losses = _losses(tmp_path / "home", "alone")
    assert len(losses) > 5
    assert _losses(tmp_path / "home", "wire") == pytest.approx(losses, rel=1e-4)
