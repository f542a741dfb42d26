"""What the fault tests share: runs of the command line in a home of their own, a printed seed, a real S3 server."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest


@dataclass
class Runs:
    """Runs of the command line in one `HELIOSTAT_HOME`, and what they left there."""

    home: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> str:
        return (self.home / "driver.log").read_text()

    def folder(self, run_id: str) -> Path:
        return self.home / "runs" / run_id

    def start(self, *args: str) -> subprocess.Popen[bytes]:
        self.home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "heliostat", "train", "--no-evaluate", *args]
        environment = {**os.environ, "HELIOSTAT_HOME": str(self.home), "HF_HUB_OFFLINE": "1", **self.env}
        with (self.home / "driver.log").open("wb") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def finish(self, driver: subprocess.Popen[bytes], exit_code: int = 0) -> str:
        assert driver.wait(timeout=400) == exit_code, self.log[-3000:]
        assert "Traceback" not in self.log, self.log[-3000:]
        return self.log

    def run(self, *args: str, exit_code: int = 0) -> str:
        return self.finish(self.start(*args), exit_code)

    def steps(self, run_id: str) -> int:
        path = self.folder(run_id) / "metrics.jsonl"
        lines = path.read_text().splitlines()[:-1] if path.exists() else []
        return max([json.loads(line)["step"] for line in lines], default=0)

    def wait_until(self, driver: subprocess.Popen[bytes], is_so: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 240
        while not is_so():
            assert driver.poll() is None, f"ended before {what}: {self.log[-3000:]}"
            assert time.monotonic() < deadline, f"never: {what}"
            time.sleep(0.02)

    def wait_for_step(self, driver: subprocess.Popen[bytes], run_id: str, step: int) -> None:
        self.wait_until(driver, lambda: self.steps(run_id) >= step, f"step {step}")

    def whole(self, run_id: str) -> list[Path]:
        """The checkpoints that have a manifest, the newest last."""
        return sorted(path.parent for path in (self.folder(run_id) / "checkpoints").glob("step-*/manifest.json"))

    def weights(self, run_id: str) -> dict[str, str]:
        """sha256 of weights, optimiser and position in the last checkpoint."""
        last = self.whole(run_id)[-1]
        names = [
            "encoder/model.safetensors",
            "head/model.safetensors",
            "state/optimizer.safetensors",
            "state/trainer.json",
        ]
        return {name: hashlib.sha256((last / name).read_bytes()).hexdigest() for name in names}

    @staticmethod
    def named(driver: subprocess.Popen[bytes], name: str) -> list[psutil.Process]:
        """The descendants of a driver that Ray titled so."""
        return [process for process in family_of(driver) if _is_named(process, name)]


def _is_named(process: psutil.Process, name: str) -> bool:
    try:
        return name in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def family_of(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """All descendants of a driver that the test started: only among them are victims taken."""
    return psutil.Process(driver.pid).children(recursive=True)


@pytest.fixture(scope="session")
def own_tmp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where temporary files and Ray's own lie, so that what is left there is known to be ours."""
    tmp_path_factory.getbasetemp()  # that of the tests stays where it is
    short = Path(tempfile.mkdtemp(prefix="hf-", dir="/tmp"))  # names of Ray's sockets must be short
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(short))
        patch.setenv("RAY_TMPDIR", str(short))
        patch.setattr(tempfile, "tempdir", str(short))
        yield short
    shutil.rmtree(short, ignore_errors=True)


@pytest.fixture(scope="session")
def runs_at() -> type[Runs]:
    """runs_at(home) starts command lines there."""
    return Runs


@pytest.fixture
def ends() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """ends(process): it is ended after the test, whatever comes of it; stopped descendants too."""
    drivers: list[subprocess.Popen[bytes]] = []
    yield drivers.append
    for driver in drivers:
        if driver.poll() is None:
            for process in family_of(driver):
                process.send_signal(signal.SIGCONT)
            driver.terminate()
            try:
                driver.wait(timeout=40)
            except subprocess.TimeoutExpired:
                driver.kill()
                driver.wait()


@pytest.fixture(scope="session")
def dice() -> random.Random:
    """Where the random steps come from; `HELIOSTAT_FAULT_SEED` throws the same again."""
    seed = int(os.environ.get("HELIOSTAT_FAULT_SEED") or random.SystemRandom().randrange(10**6))
    print(f"\nHELIOSTAT_FAULT_SEED={seed}")
    return random.Random(seed)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@dataclass
class S3:
    """SeaweedFS with its S3 gateway on loopback; it may be stopped and started again, and keeps what it holds."""

    folder: Path
    ports: list[int]
    process: subprocess.Popen[bytes] | None = None

    @property
    def env(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret-key",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.ports[0]}",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        names = ["s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc"]
        names += ["filer.port", "filer.port.grpc"]
        ports = [f"-{name}={port}" for name, port in zip(names, self.ports, strict=True)]
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        rights = {"accessKey": "key", "secretKey": "secret-key"}
        who = {"name": "test", "credentials": [rights], "actions": ["Admin", "Read", "List", "Tagging", "Write"]}
        (self.folder / "s3.json").write_text(json.dumps({"identities": [who]}))
        bound = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.port.iceberg=0", "-s3.port.lance=0", "-metricsPort=0"]
        small = ["-master.volumeSizeLimitMB=64", "-volume.max=8", "-s3.autoCreateBucket=false"]
        weed = str(Path(sys.executable).with_name("weed"))
        command = [weed, "server", f"-dir={data}", "-filer", "-s3", f"-s3.config={self.folder / 's3.json'}"]
        with (self.folder / "weed.log").open("ab") as log:
            self.process = subprocess.Popen([*command, *bound, *small, *ports], stdout=log, stderr=log)
        self._wait()

    def _wait(self) -> None:
        from pyarrow.fs import S3FileSystem

        files = S3FileSystem(
            access_key="key",
            secret_key="secret-key",
            endpoint_override=self.env["AWS_ENDPOINT_URL"],
            region="us-east-1",
            allow_bucket_creation=True,
        )
        deadline = time.monotonic() + 60
        while not self._answers(files):
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "weed.log").read_text()[-2000:]
            assert time.monotonic() < deadline, (self.folder / "weed.log").read_text()[-2000:]
            time.sleep(0.2)

    def _answers(self, files: Any) -> bool:
        try:
            files.create_dir("bucket")
            with files.open_output_stream("bucket/ready") as sink:
                sink.write(b"ready")
        except OSError:
            return False
        return True

    def stop(self) -> None:
        if self.process:
            self.process.kill()  # an outage asks nobody
            self.process.wait(timeout=30)
            self.process = None


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    server = S3(tmp_path_factory.mktemp("s3"), _free_ports(8))
    try:
        server.start()
        yield server
    finally:
        server.stop()
