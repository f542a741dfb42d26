"""Content hashes of files, remembered by path, size and time of change so that an unchanged file is read once."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from heliostat.home import home

_SETTLED_NS = 2_000_000_000
"""A file changed less than this ago may change again within one tick of its clock: its hash is not remembered."""


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal; read anew only when its size or time of change differ from the last time."""
    path = path.absolute()
    state = path.stat()
    seen = {"path": str(path), "size": state.st_size, "mtime_ns": state.st_mtime_ns}
    memory = home() / "fingerprints" / f"{hashlib.blake2b(str(path).encode(), digest_size=16).hexdigest()}.json"
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
        if all(known.get(key) == value for key, value in seen.items()):
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, AttributeError):
        pass  # never seen, or a half-written memory: hash it
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time_ns() - state.st_mtime_ns > _SETTLED_NS and path.stat().st_mtime_ns == state.st_mtime_ns:
        with suppress(OSError):  # it spares time and no more: a home that others own is read without it
            write_whole(memory, json.dumps({**seen, "sha256": digest}).encode())
    return digest


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of it or nothing of it. Raises OSError, and leaves nothing then.

    One that takes the place of another keeps the rights of that; a new one has those of any new file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with staged.open("xb") as file:  # unlike mkstemp's, it may be read by whom the umask lets
            with suppress(FileNotFoundError):
                os.fchmod(file.fileno(), path.stat().st_mode & 0o777)
            file.write(content)
        staged.replace(path)
    except OSError:
        staged.unlink(missing_ok=True)
        raise
