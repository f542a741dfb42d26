"""A prepared folder: whole or refused."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from heliostat.data.fingerprint import write_whole
from heliostat.data.prepared import MANIFEST, Prepared, seal
from heliostat.data.rejects import Place
from heliostat.data.shards import write_shards
from heliostat.data.stored import Stored, StoredWriter
from heliostat.errors import DataError


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    for number, split in enumerate(("train", "valid", "test")):
        ids = range(10 * number, 10 * number + 3 - number)
        with StoredWriter(tmp_path / "examples" / f"{split}.parquet") as writer:
            for id in ids:
                writer.add(Stored(id, Place("a.csv", id), json.dumps({"text": f"t{id}"}), json.dumps({"age": id})))
        write_shards(((id, {"tokens": np.arange(id, dtype=np.int32)}) for id in ids), tmp_path / split)
    (tmp_path / "leakage.json").write_text('{"test/train": {"exact": 1}}')
    return seal(tmp_path, "abc", {"train": 3, "valid": 2, "test": 1})


def test_it_opens_with_its_key_and_counts(prepared: Prepared) -> None:
    again = Prepared.open(prepared.folder)
    assert (again.key, again.counts) == ("abc", {"train": 3, "valid": 2, "test": 1})
    assert again.leakage() == {"test/train": {"exact": 1}}
    assert Prepared.is_complete(prepared.folder)
    again.verify()


def test_examples_stand_in_the_row_order_of_the_shards(prepared: Prepared) -> None:
    assert [stored.id for stored in prepared.stored("valid")] == prepared.shards("valid").ids.tolist() == [10, 11]
    assert list(prepared.examples("valid")) == [{"age": 10, "text": "t10"}, {"age": 11, "text": "t11"}]


def test_a_folder_without_a_manifest_is_not_complete(tmp_path: Path) -> None:
    assert not Prepared.is_complete(tmp_path)
    with pytest.raises(DataError, match="holds no prepared data"):
        Prepared.open(tmp_path)


def test_a_missing_or_shorter_file_is_named(prepared: Prepared) -> None:
    file = next((prepared.folder / "train").glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"\.arrow has \d+ bytes and had"):
        Prepared.open(prepared.folder)
    file.unlink()
    with pytest.raises(DataError, match=r"\.arrow is missing"):
        Prepared.open(prepared.folder)


def test_one_that_others_may_not_read_is_not_to_be_deleted(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, **_: object) -> str:  # root is refused nothing
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(DataError, match=r"Permission denied\. Get the right to it") as caught:
        Prepared.open(prepared.folder)
    assert "Delete" not in str(caught.value)


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for _ in range(2):
            write_whole(tmp_path / "new", b"x")
            assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
        (tmp_path / "new").chmod(0o600)
        write_whole(tmp_path / "new", b"y")
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_flipped_byte_is_found_by_verify(prepared: Prepared) -> None:
    file = next((prepared.folder / "train").glob("*.arrow"))
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"\.arrow is damaged"):
        Prepared.open(prepared.folder).verify()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 99, "key": "", "counts": {}, "files": {}}'])
def test_a_manifest_of_another_kind_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(DataError, match="prepare the data anew"):
        Prepared.open(tmp_path)
