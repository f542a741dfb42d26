"""Files as they lie about: hidden ones, backups, packed ones, those that go away, and a disk or a home that refuses."""

from __future__ import annotations

import bz2
import gzip
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from heliostat.data import hub
from heliostat.data.check import inspect
from heliostat.data.formats import Options, SourceFile, columns_of, rows_of
from heliostat.data.prepare import prepare
from heliostat.data.sources import open_source
from heliostat.errors import DataError, TrainError
from heliostat.home import home
from heliostat.run import Run, check
from heliostat.train import run_folder


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))


def read(path: Path) -> list[Any]:
    return [row for _, row in open_source(str(path)).rows()]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run on 200 reviews."""
    lines = [f"the dress number {number} fits,{'good' if number % 2 else 'bad'}" for number in range(200)]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *lines]))
    return check(
        {
            "name": "toy",
            "data": {"adapter": "core.columns", "source": str(tmp_path / "reviews.csv")},
            "encoder": {"type": "core.text", "preset": "tiny"},
            "head": "core.classification",
        }
    )


def test_of_a_folder_only_whole_files_that_are_not_hidden_are_read(tmp_path: Path) -> None:
    folder = tmp_path / ".data" / "reviews"  # what lies above the named folder hides nothing
    names = ["a.csv", "sub/b.csv.gz"]
    names += [".ipynb_checkpoints/a-checkpoint.csv", "a.csv.bak", "._a.csv", ".out.csv.4711", "sub/a.csv.tmp", "a.csv~"]
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = f"text\n{name}\n".encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert read(folder) == [{"text": "a.csv"}, {"text": "sub/b.csv.gz"}]


@pytest.mark.parametrize(
    ("name", "content", "records"),
    [
        ("a.jsonl.gz", '{"text": "é"}\n', [{"text": "é"}]),
        ("a.txt.gz", "é\n", [{"text": "é\n"}]),
        ("a.csv.gz", "text\né\n", [{"text": "é"}]),
    ],
)
def test_gzipped_text_is_read(tmp_path: Path, name: str, content: str, records: list[Any]) -> None:
    (tmp_path / name).write_bytes(gzip.compress(content.encode()))
    assert read(tmp_path / name) == records


def test_what_is_wrong_in_a_packed_file_is_told_of_what_it_holds(tmp_path: Path) -> None:
    def told(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            read(tmp_path / name)
        return str(caught.value)

    assert "byte 5 (line 2) is not utf-8" in told("a.csv.gz", gzip.compress("text\né\n".encode("latin-1")))
    assert "Unpack it first" in told("a.jsonl.bz2", bz2.compress(b'{"text": "x"}\n'))
    torn = gzip.compress(bytes(range(256)) * 999)[:-300]
    for name in ("b.jsonl.gz", "b.csv.gz"):
        assert "encoding" not in told(name, torn)
    assert "the file is empty" in told("c.csv.gz", gzip.compress(b"\n\n"))


@pytest.mark.parametrize("format", ["csv", "jsonl", "text", "xml", "parquet"])
def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path, format: Any) -> None:
    file = SourceFile(tmp_path / "gone", "gone", format)
    with pytest.raises(DataError, match=r"gone.*No such file or directory"):
        list(rows_of(file, Options(), {}))
    if format != "text":
        with pytest.raises(DataError, match=r"gone.*No such file or directory"):
            columns_of(file, Options())


def test_a_source_that_goes_away_is_a_sentence(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(run.data.source)
    (tmp_path / "reviews.csv").unlink()
    monkeypatch.setattr("heliostat.data.prepare.open_source", lambda _: source)
    with pytest.raises(DataError, match=r"reviews.csv: No such file or directory. Mend the path"):
        prepare(run)


def test_a_home_that_cannot_be_written_is_a_sentence(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(DataError, match=r"home/prepared.*Not a directory"):
        prepare(run)
    assert "Not a directory" in str(inspect(run).problem)
    with pytest.raises(TrainError, match="Not a directory"):
        run_folder.create(run, "one")


def test_a_disk_that_takes_no_more_is_a_sentence(run: Run) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(DataError, match=r"File too large. Make room there.*HELIOSTAT_HOME"):
            prepare(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((home() / "prepared").iterdir())


def test_a_file_that_a_command_cannot_make_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "heliostat", "new-plugin", "wine", "--folder", str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error {tmp_path / 'file'}")
    assert "Not a directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_fetch_from_the_hub_that_is_killed_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    class Killed(datasets.Dataset):  # type: ignore[misc]
        """One that is killed when half of it is written."""

        def save_to_disk(self, folder: Any, *_: Any, **__: Any) -> None:
            Path(folder).mkdir(parents=True)
            (Path(folder) / "dataset_info.json").write_text(json.dumps({}))
            raise KeyboardInterrupt

    whole = datasets.Dataset.from_list([{"text": "x"}])
    for found in (Killed(whole.data), whole):
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, found=found, **__: found)
        try:
            hub.fetch("hf:some/set", "some/set")
        except KeyboardInterrupt:
            assert found is not whole
            with pytest.raises(DataError, match="fetch it first"):
                open_source("hf:some/set").columns()
    assert [row for _, row in open_source("hf:some/set").rows()] == [{"text": "x"}]
    assert [path.name for path in (home() / "archives" / "hub").iterdir()] == ["some--set"]
