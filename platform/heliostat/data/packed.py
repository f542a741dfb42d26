"""Text files that may be gzipped: they are read as they are, or as what they unpack to."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from heliostat.errors import DataError

_GZIP = b"\x1f\x8b"
SUFFIXES = (".gz", ".gzip", ".bz2", ".xz", ".zst", ".lz4", ".br", ".brotli", ".snappy", ".zip")
"""Endings of what is packed, behind those that tell the format."""


@contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, those of a gzipped one unpacked."""
    with path.open("rb") as file:
        is_gzip = file.read(2) == _GZIP
        file.seek(0)
        if not is_gzip:
            yield file
            return
        with gzip.open(file) as content:
            yield cast(IO[bytes], content)


def refuse_packed(path: Path, name: str) -> None:
    """Raises DataError for a file that by its ending is packed in a way in which `unpacked` does not read it."""
    if path.suffix in SUFFIXES and path.suffix not in (".gz", ".gzip"):
        raise DataError(f"{name}: is packed, and its text is read from files as they are or .gz. Unpack it first.")
