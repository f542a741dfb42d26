"""Checkpoints in a bucket: whole or not there, fetched where they are missing, late after an outage. A real S3."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heliostat import checkpoint
from heliostat.errors import TrainError
from heliostat.run import Run, load
from heliostat.train import launch
from heliostat.train.launch import TrainResult, Watcher
from heliostat.train.mirror import Mirror
from heliostat.train.uploads import trouble

RUN = [
    "data.limit=300",
    "train.epochs=3",
    "train.log_every=1",
    "train.checkpoint_every=10",
    "train.tokens_per_batch=1024",
]


class Ears(Watcher):
    """Keeps the warnings; `at_step(step)` is called once with each new step of the journal."""

    def __init__(self, at_step: Callable[[int], None] = lambda step: None) -> None:
        self.warnings: list[str] = []
        self.at_step = at_step
        self.seen = 0

    def training(self, folder: Path) -> None:
        path = folder / "metrics.jsonl"
        step = (
            max([json.loads(line)["step"] for line in path.read_text().splitlines()], default=0) if path.exists() else 0
        )
        if step > self.seen:
            self.seen = step
            self.at_step(step)

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)


@pytest.fixture
def home(tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def _run(mirror: str | None, *more: str) -> Run:
    return load("sentiment/tiny", [*RUN, *more, *([f"train.mirror={mirror}"] if mirror else [])])


def _hashes(folder: Path) -> dict[str, Any]:
    return dict(checkpoint.verify(folder)["files"])


def _last(result: TrainResult) -> dict[str, Any]:
    return _hashes(max((result.folder / "checkpoints").glob("step-*")))


def test_the_bucket_holds_what_the_folder_holds(home: Path) -> None:
    ears = Ears()
    result = launch.train(_run("s3://bucket/same"), run_id="same", watcher=ears)
    assert (ears.warnings, result.not_mirrored) == ([], ())
    mirror = Mirror("s3://bucket/same", "same")
    here = {path.name: path for path in (result.folder / "checkpoints").glob("step-*")}
    there = mirror.names()
    assert set(there) == set(here)
    assert mirror.whole() == sorted(here)
    for name, path in here.items():
        assert there[name] == {*_hashes(path), "manifest.json"}


@pytest.mark.fault(
    "the machine is gone, the bucket of train.mirror is there",
    seen="nothing; heliostat train --resume s3://bucket/prefix/ID goes on elsewhere",
    lost="steps since the last checkpoint are computed again; of the result nothing",
    proof="weights of the unbroken run, to the bit",
)
def test_a_run_goes_on_where_its_folder_never_was(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken = launch.train(_run("s3://bucket/moved", "train.keep_checkpoints=99"), run_id="moved")
    mirror = Mirror("s3://bucket/moved", "moved")
    for name, files in mirror.names().items():
        if name > "step-00000020":  # the machine died before it wrote them
            mirror.remove(name, files)
    assert mirror.whole()[-1] == "step-00000020"
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "elsewhere"))
    ears = Ears()
    result = launch.train(None, resume="s3://bucket/moved/moved", watcher=ears)
    assert result.folder == tmp_path / "elsewhere" / "runs" / "moved"
    assert ears.warnings == []
    assert _last(result) == _last(unbroken)
    rows = [json.loads(line)["step"] for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert sorted(set(rows)) == list(range(1, unbroken.steps + 1)), "the curves come along"
    assert mirror.whole() == sorted(path.name for path in (result.folder / "checkpoints").glob("step-*"))


def test_a_damaged_checkpoint_is_fetched_again_and_a_torn_one_there_is_not_taken(home: Path) -> None:
    result = launch.train(_run("s3://bucket/torn"), run_id="torn")
    before = _last(result)
    mirror, checkpoints = Mirror("s3://bucket/torn", "torn"), result.folder / "checkpoints"
    newest = max(checkpoints.glob("step-*"))
    weights = newest / "encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    ears = Ears()
    again = launch.train(None, resume="torn", watcher=ears)
    assert _last(again) == before
    files, root = mirror._place
    files.delete_file(f"{root}/checkpoints/{newest.name}/manifest.json")
    shutil.rmtree(newest)
    earlier = mirror.whole()[-1]
    assert earlier < newest.name
    mirror.fetch(checkpoints)
    assert max(path.name for path in checkpoints.glob("step-*")) == earlier
    assert _last(launch.train(None, resume="torn")) == before, "computed again to the same bits"


@pytest.mark.fault(
    "the bucket of train.mirror is away for a while",
    seen="`cannot be reached: …The training goes on; its checkpoints follow when it can be reached again.`",
    lost="nothing",
    proof="bucket and folder hold the same in the end",
)
@pytest.mark.sweep
def test_training_goes_on_while_the_bucket_is_out_and_the_rest_follows(
    home: Path, s3: Any, is_seen: Callable[[str], None]
) -> None:
    def outage(step: int) -> None:
        if step == 4:
            s3.stop()
        if step == 24:  # by now the thread has found out; no update waited for it
            deadline = time.monotonic() + 120
            while not trouble(home / "runs" / "out"):
                assert time.monotonic() < deadline
                time.sleep(0.1)
        if step == 34:
            s3.start()

    ears = Ears(outage)
    try:
        result = launch.train(_run("s3://bucket/out"), run_id="out", watcher=ears)
    finally:
        if s3.process is None:
            s3.start()
    assert result.not_mirrored == ()
    assert Mirror("s3://bucket/out", "out").whole() == sorted(
        path.name for path in (result.folder / "checkpoints").glob("step-*")
    )
    is_seen(" ".join(ears.warnings))
    assert sum("s3://bucket/out/out cannot be reached: " in words for words in ears.warnings) == 1, ears.warnings


@pytest.mark.fault(
    "the bucket is away to the end",
    seen="`Not there: …They lie in …; send them later with heliostat train --resume …`",
    lost="nothing, once they are sent",
    proof="bucket and folder hold the same after that",
)
@pytest.mark.sweep
def test_what_is_not_in_the_bucket_at_the_end_is_said_and_sent_later(
    home: Path, s3: Any, monkeypatch: pytest.MonkeyPatch, is_seen: Callable[[str], None]
) -> None:
    monkeypatch.setattr("heliostat.train.uploads.PATIENCE_S", 1.0)
    ears = Ears(lambda step: s3.stop() if step == 4 else None)
    try:
        result = launch.train(_run("s3://bucket/late"), run_id="late", watcher=ears)
    finally:
        s3.start()
    kept = sorted(path.name for path in (result.folder / "checkpoints").glob("step-*"))
    assert result.not_mirrored == tuple(kept)
    is_seen(ears.warnings[-1])
    assert f"Not there: {', '.join(kept)}." in ears.warnings[-1]
    assert "heliostat train --resume late" in ears.warnings[-1]
    assert launch.train(None, resume="late").not_mirrored == ()
    assert Mirror("s3://bucket/late", "late").whole() == kept


def test_a_bucket_that_is_not_there_is_one_sentence_before_anything_starts(home: Path) -> None:
    with pytest.raises(TrainError, match=r"train\.mirror: s3://no-such-bucket/runs/none cannot be written: .*bucket"):
        launch.train(_run("s3://no-such-bucket/runs"), run_id="none")
    assert not (home / "runs" / "none").exists()
    with pytest.raises(TrainError, match=r"there is no run at s3://bucket/nothing/here\."):
        launch.train(None, resume="s3://bucket/nothing/here")


def test_any_folder_is_a_mirror(home: Path, tmp_path: Path) -> None:
    result = launch.train(_run(f"file://{tmp_path}/copies"), run_id="plain")
    copies = tmp_path / "copies" / "plain" / "checkpoints"
    assert {path.name for path in copies.iterdir()} == {path.name for path in (result.folder / "checkpoints").iterdir()}
    assert all(checkpoint.verify(path) for path in copies.iterdir())
    shutil.rmtree(result.folder)
    with pytest.raises(TrainError, match=r"the run 'plain' exists at file://"):
        launch.train(_run(f"file://{tmp_path}/copies"), run_id="plain")
