"""Checks of what lies beyond the processor: tokens, folders, disks, buckets, the cluster."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import socket
import stat
import urllib.request
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from heliostat.cluster.finding import Finding, State
from heliostat.cluster.head import reach
from heliostat.cluster.machine import temporary_folder
from heliostat.errors import ClusterError
from heliostat.home import home
from heliostat.ray_session import token_path

_GB = 1e9
_LEAST_FREE_GB = 2.0
_FULLEST = 0.95
"""Share of its disk that may be in use before Ray makes no objects any more."""


def tokens() -> list[Finding]:
    """Who may read the token of Ray and that of deployments; everybody else is shut out."""
    findings = [_token(name, path) for name, path in (("token of Ray", token_path()), ("token", home() / "token"))]
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        mend = "Unset RAY_AUTH_MODE, unless nobody else reaches this machine: whoever reaches Ray may run code."
        findings.append(Finding("token of Ray", State.NOTE, "Ray's clusters ask for none (RAY_AUTH_MODE)", mend))
    return findings


def _token(name: str, path: Path) -> Finding:
    if not path.is_file():
        return Finding(name, State.RIGHT, f"none yet in {path}; it is written when it is first wanted")
    mode = stat.S_IMODE(path.stat().st_mode)
    if not mode & 0o077:
        return Finding(name, State.RIGHT, f"{path}, for your eyes alone")
    try:
        path.chmod(0o600)
    except OSError:
        mend = f"Let its owner run: chmod 600 {path}, and make a new token: others may have read this one."
        return Finding(name, State.WRONG, f"{path} has mode {mode:04o}: others may read it", mend)
    return Finding(name, State.RIGHT, f"{path} had mode {mode:04o}: others could read it; mended to 0600")


def home_folder() -> list[Finding]:
    """Whether HELIOSTAT_HOME can be written, and locks work there."""
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{secrets.token_hex(4)}"
        with probe.open("w", encoding="utf-8") as file:
            try:
                file.write("heliostat")
                file.flush()
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            finally:
                probe.unlink()
    except OSError as error:
        mend = "Set HELIOSTAT_HOME to a folder that you may write and that has locks (an NFS with a lock service)."
        return [Finding("home", State.WRONG, f"{folder} cannot be used: {error.strerror or error}", mend)]
    origin = "HELIOSTAT_HOME" if os.environ.get("HELIOSTAT_HOME") else "HELIOSTAT_HOME is not set"
    return [Finding("home", State.RIGHT, f"{folder} ({origin}); on a cluster all nodes must share it")]


def disks() -> list[Finding]:
    """Room for data and checkpoints, and for Ray."""
    return [_disk("disk", home(), "HELIOSTAT_HOME"), _disk("disk of Ray", temporary_folder(), "RAY_TMPDIR")]


def _disk(name: str, folder: Path, variable: str) -> Finding:
    while not folder.is_dir():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    used = 1.0 - usage.free / usage.total
    found, mend = f"{usage.free / _GB:,.0f} GB free, {used:.0%} used ({folder})", f"Free some, or set {variable}."
    if usage.free < _LEAST_FREE_GB * _GB:
        return Finding(name, State.WRONG, found, mend)
    if used > _FULLEST:
        state = State.WRONG if variable == "RAY_TMPDIR" else State.NOTE
        return Finding(name, state, found, f"{mend} Ray makes no objects on a disk that is {_FULLEST:.0%} full.")
    return Finding(name, State.RIGHT, found)


def proxies() -> list[Finding]:
    """Whether requests to this machine would go through a proxy."""
    proxy = urllib.request.getproxies().get("http")
    if not proxy or urllib.request.proxy_bypass("127.0.0.1"):
        return []
    mend = "export no_proxy=127.0.0.1,localhost and the address of your head: no proxy reaches those."
    return [Finding("proxy", State.NOTE, f"http goes through {proxy}, to this machine as well", mend)]


def mirror(address: str | None) -> list[Finding]:
    """Whether something can be written to and removed from a place of checkpoints."""
    if address is None:
        return []
    try:
        _written_and_removed(address)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())[:300]
        mend = "Check the address (s3://BUCKET/PREFIX), the keys of this environment and the bucket's rights."
        return [Finding("mirror", State.WRONG, f"{address}: {why}", mend)]
    return [Finding("mirror", State.RIGHT, f"{address} can be written, read and cleared")]


def _written_and_removed(address: str) -> None:
    from pyarrow.fs import FileSystem

    files, root = FileSystem.from_uri(address)
    name, text = f"{root.rstrip('/')}/.probe-{secrets.token_hex(4)}", b"heliostat"
    if files.type_name == "local":
        files.create_dir(root, recursive=True)
    with files.open_output_stream(name) as out:
        out.write(text)
    with files.open_input_stream(name) as back:
        if back.read() != text:
            raise OSError("what was written comes back otherwise")
    files.delete_file(name)


def cluster(address: str | None, token_file: Path | None) -> list[Finding]:
    """Whether the cluster answers that was named, or that the environment names."""
    named = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if not named:
        return [Finding("cluster", State.RIGHT, "none is named (RAY_ADDRESS, --address): Ray starts on this machine")]
    ask: Callable[[], Finding] = lambda: _jobs_api(address, token_file)  # noqa: E731
    if not address and ":" in named and named.rpartition(":")[2] == "6379":
        ask = lambda: _port_of_ray(named.rpartition("://")[2])  # noqa: E731
    try:
        return [ask()]
    except ClusterError as error:
        return [Finding("cluster", State.WRONG, f"{named} cannot be used", str(error))]


def _jobs_api(address: str | None, token_file: Path | None) -> Finding:
    url, _, there = reach(address, token_file)
    here = metadata.version("ray")
    if there.split(".")[:2] != here.split(".")[:2]:
        mend = f"Install ray {there} here or {here} there: what runs on both sides must be one version."
        return Finding("cluster", State.WRONG, f"{url} has ray {there}, this machine {here}", mend)
    return Finding("cluster", State.RIGHT, f"{url} answers, ray {there}")


def _port_of_ray(named: str) -> Finding:
    host, _, port = named.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
    except (OSError, ValueError) as error:
        mend = "Is the head up, and does a firewall let this port through?"
        return Finding("cluster", State.WRONG, f"{named} (RAY_ADDRESS) cannot be reached: {error}", mend)
    return Finding("cluster", State.RIGHT, f"{named} (RAY_ADDRESS) can be reached")
