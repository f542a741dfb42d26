"""What the doctor finds on a machine with planted faults, and what it mends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from heliostat.cluster import machine
from heliostat.cluster.finding import State

Doctor = Callable[..., tuple[int, dict[str, dict[str, Any]]]]


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    """doctor("--mirror", ..., VARIABLE=...) gives the exit code and the findings by name."""
    token = tmp_path / "auth_token"
    token.write_text("0123456789abcdef")
    token.chmod(0o600)

    def doctor(*words: str, **env: str) -> tuple[int, dict[str, dict[str, Any]]]:
        own = {"HELIOSTAT_HOME": str(tmp_path / "home"), "RAY_AUTH_TOKEN_PATH": str(token)}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "heliostat", "doctor", "--json", *words],
            env={**kept, **own, **env},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert "Traceback" not in done.stderr, done.stderr[-2000:]
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert not imported & {"torch", "ray", "transformers"}
        return done.returncode, {finding["name"]: finding for finding in json.loads(done.stdout)}

    return doctor


def test_planted_faults_are_found_with_what_to_do(
    doctor: Doctor, tmp_path: Path, install: Callable[..., Path], taken_port: int
) -> None:
    install("boom", "raise RuntimeError('out of order')")
    (tmp_path / "file").write_text("")
    code, found = doctor(
        "--mirror",
        f"file://{tmp_path}/file/bucket",
        HELIOSTAT_HOME=str(tmp_path / "file" / "home"),
        RAY_ADDRESS="127.0.0.1:6379",
    )
    assert code == 1
    wrong = {name for name, finding in found.items() if finding["state"] == "wrong"}
    assert wrong >= {"plugin", "mirror", "home", "cluster"}
    assert "boom" in found["plugin"]["found"]
    assert "out of order" in found["plugin"]["found"]
    assert "Set HELIOSTAT_HOME" in found["home"]["mend"]
    assert "127.0.0.1:6379 (RAY_ADDRESS) cannot be reached" in found["cluster"]["found"]
    assert all(finding["mend"] for finding in found.values() if finding["state"] == "wrong")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield int(listener.getsockname()[1])


def test_a_token_that_others_may_read_is_shut(doctor: Doctor, tmp_path: Path) -> None:
    token = tmp_path / "open_token"
    token.write_text("0123456789abcdef")
    token.chmod(0o644)
    _, found = doctor("--mirror", f"file://{tmp_path}/bucket", RAY_AUTH_TOKEN_PATH=str(token))
    assert token.stat().st_mode & 0o777 == 0o600
    assert found["token of Ray"]["found"].endswith("had mode 0644: others could read it; mended to 0600")
    assert found["mirror"]["state"] == "right"
    assert found["home"]["state"] == found["packages"]["state"] == "right"
    assert not list((tmp_path / "bucket").iterdir())


def test_a_port_that_somebody_has_is_named(monkeypatch: pytest.MonkeyPatch, taken_port: int) -> None:
    monkeypatch.setattr(machine, "PORTS", {taken_port: "a program"})
    found = machine.ports()
    assert [finding.state for finding in found] == [State.NOTE]
    assert str(taken_port) in found[0].found
