"""Archives: pinned by hash, unpacked through nested archives, never fetched in passing."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from heliostat.data.archives import fetch, members, pinned
from heliostat.data.sources import open_source
from heliostat.errors import DataError
from heliostat.home import home


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def tar(entries: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tape:
        for name, body in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            tape.addfile(entry, io.BytesIO(body))
    return content.getvalue()


def wheel(entries: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as bundle:
        for name, body in entries.items():
            bundle.writestr(name, body)
    return content.getvalue()


def cached(content: bytes, file: str) -> str:
    """Lay an archive where fetching would have put it; its hash."""
    digest = hashlib.sha256(content).hexdigest()
    folder = pinned("", "toy==1.0/x", digest).folder
    folder.mkdir(parents=True)
    (folder / file).write_bytes(content)
    return digest


def test_file_in_a_wheel() -> None:
    digest = cached(wheel({"toy/data/a.csv": b"text\nx\n", "toy/b.csv": b"text\ny\n"}), "toy-1.0-py3-none-any.whl")
    source = open_source(f"pypi:toy==1.0/toy/data/a.csv#sha256={digest}")
    assert [row for _, row in source.rows()] == [{"text": "x"}]


def test_pattern_in_an_archive_in_an_archive() -> None:
    inner = tar({"set/a_Truth.txt": b"1\tx\n", "set/b_Truth.txt": b"2\ty\n", "set/readme.txt": b"no"})
    digest = cached(tar({"toy-1.0/extra/set.tar.gz": inner, "toy-1.0/setup.py": b"boom"}), "toy-1.0.tar.gz")
    address = f"pypi:toy==1.0/extra/set.tar.gz!/*_Truth.txt#sha256={digest}&format=tsv&columns=n,text&file_column=part"
    for _ in range(2):  # unpacked first, then found
        assert [row for _, row in open_source(address).rows()] == [
            {"n": 1, "text": "x", "part": "a_Truth"},
            {"n": 2, "text": "y", "part": "b_Truth"},
        ]


def test_entries_cannot_leave_their_folder() -> None:
    digest = cached(wheel({"../../../evil.csv": b"text\nx\n"}), "toy-1.0-py3-none-any.whl")
    (path,) = members("s", "toy==1.0/*evil.csv", digest)
    assert path.is_relative_to(home() / "archives")
    assert sorted(home().rglob("evil.csv")) == [path]


def test_same_names_in_different_folders_both_come() -> None:
    digest = cached(wheel({"a/data.csv": b"1", "b/data.csv": b"2"}), "toy-1.0-py3-none-any.whl")
    assert {path.read_bytes() for path in members("s", "toy==1.0/*/data.csv", digest)} == {b"1", b"2"}


def test_same_names_in_different_archives_all_come() -> None:
    entries = {f"{name}.zip": wheel({"data.csv": f"text\n{name}\n".encode()}) for name in "abc"}
    digest = cached(wheel(entries), "toy-1.0-py3-none-any.whl")
    source = open_source(f"pypi:toy==1.0/*.zip!/data.csv#sha256={digest}")
    assert [row for _, row in source.rows()] == [{"text": "a"}, {"text": "b"}, {"text": "c"}]
    (listing,) = home().rglob("members.json")
    listing.write_text('["data.csv", "data.csv"]')  # as one was written that had lost a file
    assert len(members("s", "toy==1.0/*.zip!/data.csv", digest)) == 3


def test_wrong_path_inside_is_answered_with_a_guess() -> None:
    digest = cached(wheel({"toy/data/reviews.csv": b"text\nx\n"}), "toy-1.0-py3-none-any.whl")
    with pytest.raises(DataError, match=r"holds no 'toy/data/review.csv'. Did you mean 'toy/data/reviews.csv'"):
        open_source(f"pypi:toy==1.0/toy/data/review.csv#sha256={digest}")


def test_archive_with_another_hash_does_not_count() -> None:
    digest = cached(wheel({"toy/a.csv": b"text\nx\n"}), "toy-1.0-py3-none-any.whl")
    (archive,) = pinned("", "toy==1.0/x", digest).folder.glob("*.whl")
    archive.write_bytes(wheel({"toy/a.csv": b"text\nforged\n"}))
    with pytest.raises(DataError, match=r"is not here"):
        open_source(f"pypi:toy==1.0/toy/a.csv#sha256={digest}")


def test_archive_that_is_not_here_is_not_fetched_in_passing() -> None:
    with pytest.raises(DataError, match=r"Fetch it first: heliostat data fetch RUN"):
        open_source(f"pypi:toy==1.0/a.csv#sha256={'0' * 64}")
    assert not (home() / "archives").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("pypi:toy==1.0/a.csv", "pinned by its hash: add #sha256="),
        ("pypi:toy==1.0/a.csv#sha256=abc", "pinned by its hash"),
        (f"pypi:toy/a.csv#sha256={'0' * 64}", "takes the form pypi:<name>==<version>"),
        (f"pypi:toy==1.0/../a.csv#sha256={'0' * 64}", "takes the form pypi:<name>==<version>"),
        (f"pypi:--index=x==1.0/a.csv#sha256={'0' * 64}", "takes the form pypi:<name>==<version>"),
    ],
)
def test_unpinned_source_is_refused(source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(source)


def test_fetch_from_where_pip_would_checks_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = b"Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n"
    kind = b"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    content = wheel(
        {
            "toy/a.csv": b"text\nx\n",
            "toy-1.0.dist-info/METADATA": metadata,
            "toy-1.0.dist-info/WHEEL": kind,
            "toy-1.0.dist-info/RECORD": b"",
        }
    )
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "toy-1.0-py3-none-any.whl").write_bytes(content)
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(DataError, match=r"toy==1.0 cannot be fetched"):
        fetch("s", "toy==1.0/toy/a.csv", "0" * 64)
    path = fetch("s", "toy==1.0/toy/a.csv", digest)
    assert path.is_relative_to(home() / "archives")
    assert path.read_bytes() == content
    (shelf / "toy-1.0-py3-none-any.whl").unlink()
    assert fetch("s", "toy==1.0/toy/a.csv", digest) == path  # it is here, nobody is asked
    assert [row for _, row in open_source(f"pypi:toy==1.0/toy/a.csv#sha256={digest}").rows()] == [{"text": "x"}]
