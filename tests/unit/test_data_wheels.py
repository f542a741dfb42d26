"""A file out of a wheel, by its hash."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from heliostat.data.wheels import member
from heliostat.errors import DataError


@pytest.fixture
def package(tmp_path: Path) -> str:
    """A wheel that lies on this machine, with a table in it."""
    path = tmp_path / "letters-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letters/table.csv", "a,b\n")
        archive.writestr("letters-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: letters\nVersion: 1.0\n")
        archive.writestr(
            "letters-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("letters-1.0.dist-info/RECORD", "")
    return str(path)


def test_a_member_is_read_and_nothing_is_installed(package: str) -> None:
    assert member(package, "letters/table.csv", hashlib.sha256(b"a,b\n").hexdigest()) == b"a,b\n"


def test_other_content_and_no_package_are_refused(package: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must have the sha256 00"):
        member(package, "letters/table.csv", "00")
    with pytest.raises(DataError, match="cannot be fetched"):
        member(str(tmp_path / "none-1.0-py3-none-any.whl"), "letters/table.csv", "00")
