"""What a training that is ended, resumed or short of room says and leaves: other data, wishes, beats, a full disk."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from heliostat.data.fingerprint import write_whole
from heliostat.errors import CheckpointError, DataError, Stopped, TrainError
from heliostat.ingest import prepared_once
from heliostat.run import Run, check
from heliostat.train import launch, run_folder, torchrun
from heliostat.train.beats import forget, groups, nodes, wait_for_silence
from heliostat.train.full_disk import full_disk_told, why_full
from heliostat.train.journal import Journal
from heliostat.train.mirror import Mirror, bring, claim
from heliostat.train.overdue import Overdue, tell


@pytest.fixture
def run(tmp_path: Path, toy_rows: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run over a source of its own, in a home of its own."""
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))
    shutil.copy(toy_rows, tmp_path / "rows.csv")
    return check(
        {
            "name": "toy",
            "data": {
                "adapter": "core.columns",
                "source": str(tmp_path / "rows.csv"),
                "split": {"valid": 0.2, "test": 0.1},
            },
            "encoder": {"type": "core.text", "preset": "tiny", "vocab_size": 300},
            "head": "core.classification",
        }
    )


def test_what_is_resumed_goes_on_with_its_own_data_or_says_that_they_are_gone(run: Run, tmp_path: Path) -> None:
    folder, source = tmp_path / "toy-1", tmp_path / "rows.csv"
    folder.mkdir()
    first, rows = prepared_once(run, folder), source.read_bytes()
    source.write_bytes(rows + b"good a b c,good\r\n")
    assert prepared_once(run, folder).key == first.key
    shutil.rmtree(first.folder)
    with pytest.raises(DataError, match=rf"'toy-1' began with the data {first.key}, which are gone.*Put .* back"):
        prepared_once(run, folder)
    assert (folder / "prepared").read_text() == first.key
    source.write_bytes(rows)
    assert prepared_once(run, folder).folder == first.folder


def test_a_wish_to_stop_outlives_a_resume_that_is_refused(run: Run) -> None:
    folder = run_folder.create(run, "mine")
    run_folder.ask_to_move(folder)
    with run_folder.locked(folder):
        assert not run_folder.is_asked_to_move(folder)
        run_folder.ask_to_stop(folder)
        run_folder.reopen("mine")
        with pytest.raises(TrainError, match="in use"), run_folder.locked(folder):
            raise AssertionError
        assert run_folder.is_asked_to_stop(folder)
    with run_folder.locked(folder):
        assert not run_folder.is_asked_to_stop(folder)


def test_a_restart_under_torchrun_keeps_what_the_command_says_of_scaling(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = run.dump()
    values["scaling"]["num_workers"] = 4
    run_folder.create(check(values), "mine")
    here = torchrun.Place(0, 0, world_size=2, local_world_size=2, restarts=1)

    @contextmanager
    def joined(here: torchrun.Place) -> Iterator[Any]:
        yield SimpleNamespace(here=here, agree=lambda first: first())

    monkeypatch.setattr(torchrun, "place", lambda: here)
    monkeypatch.setattr(torchrun, "joined", joined)
    monkeypatch.setattr(torchrun, "claimed", lambda runs: "mine")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    (tmp_path / "rows.csv").unlink()
    with pytest.raises(DataError, match=r"rows\.csv"):  # past the number of workers
        launch.train(None, resume="mine", scaling={"num_workers": 2})


def test_beats_that_end_while_they_are_read_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "beats").mkdir()
    (tmp_path / "beats" / "rank-1.json").symlink_to(tmp_path / "gone")  # listed, and not there to be read
    (tmp_path / "beats" / "rank-0.json").write_text('{"group": "g", "node": "n"}')
    assert (groups(tmp_path), nodes(tmp_path)) == ({"g"}, {"n"})
    forget(tmp_path)
    (tmp_path / "beats" / "rank-1.json").symlink_to(tmp_path / "gone")
    wait_for_silence(tmp_path)


def test_an_error_of_one_worker_ends_the_wait_for_the_others(tmp_path: Path) -> None:
    now = [0.0]
    look = Overdue(tmp_path, lambda: now[0])
    look()
    tell(tmp_path, CheckpointError("the disk is full. Make room."), rank=1)
    look()  # the others may come to the same end
    now[0] = 4.0
    look()
    now[0] = 6.0
    with pytest.raises(TrainError, match="the disk is full"):
        look()


def test_a_wish_to_stop_is_heard_where_no_worker_lives(tmp_path: Path) -> None:
    now = [100.0]
    look = Overdue(tmp_path, lambda: now[0])
    run_folder.ask_to_stop(tmp_path)
    beat = tmp_path / "beats" / "rank-0.json"
    beat.parent.mkdir()
    for second in range(30):  # a worker that lives saves first
        beat.write_text(str(second))
        look()
        now[0] += 1.0
    beat.unlink()
    look()
    now[0] += 9.0
    look()
    now[0] += 2.0
    with pytest.raises(Stopped, match="the newest whole checkpoint"):
        look()
    tell(tmp_path, Stopped("stopped after step 7; its checkpoint is kept."), rank=0)
    with pytest.raises(Stopped, match="after step 7"):
        look()


def _onto_a_full_disk(source: str, target: str) -> None:
    with Path("/dev/full").open("wb", buffering=0) as file:
        file.write(Path(source).read_bytes())


def _from_nowhere(source: str, target: str) -> None:
    Path(target).write_bytes(Path(f"{source}-gone").read_bytes())


def test_a_copy_onto_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "weights").write_text("1")
    with pytest.raises(TrainError, match=r"No space left on device.*Make room"), full_disk_told(tmp_path):
        shutil.copytree(tmp_path / "best", tmp_path / "model", copy_function=_onto_a_full_disk)
    with pytest.raises(shutil.Error), full_disk_told(tmp_path):
        shutil.copytree(tmp_path / "best", tmp_path / "other", copy_function=_from_nowhere)


def test_a_full_disk_is_known_through_what_came_of_it() -> None:
    error = CheckpointError("could not be written")
    error.__cause__ = OSError(errno.ENOSPC, "any words")
    assert why_full(error) == os.strerror(errno.ENOSPC)
    error.__cause__ = OSError(errno.EACCES, "any words")
    assert why_full(error) == ""


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_journal_that_cannot_be_written_anew_stays_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    text = "".join(f'{{"step": {step}, "loss": 1.0}}\n' for step in range(1, 5))
    path.write_text(text)
    path.chmod(0o640)
    with pytest.raises(OSError, match="too large"), _files_of_at_most(20):
        Journal(tmp_path, is_writer=True).open(3)
    assert path.read_text() == text
    assert [*tmp_path.iterdir()] == [path], "no half is left"
    journal = Journal(tmp_path, is_writer=True)
    journal.open(3)
    journal.close()
    assert len(path.read_text().splitlines()) == 3
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_whole_file_takes_the_place_of_another(tmp_path: Path) -> None:
    write_whole(tmp_path / "new" / "file", b"1")
    write_whole(tmp_path / "new" / "file", b"2")
    assert [(each.name, each.read_bytes()) for each in (tmp_path / "new").iterdir()] == [("file", b"2")]


@pytest.mark.parametrize(
    "called", [lambda runs: bring("s4://b/x", runs), lambda runs: claim(Mirror("s4://b", "x"), runs)]
)
def test_an_address_of_no_known_kind_is_one_sentence(tmp_path: Path, called: Callable[[Path], Any]) -> None:
    with pytest.raises(TrainError, match=r"s4://b/x cannot be (read|written): .*"):
        called(tmp_path)
