"""Whatever becomes of a checkpoint, the right earlier one is taken; with none left a person reads one sentence."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heliostat import checkpoint
from heliostat.errors import CheckpointError
from heliostat.run import load
from heliostat.train import launch
from heliostat.train.launch import Watcher
from heliostat.train.recovery import recover

WRITER = Path(__file__).with_name("torn_writer.py")
NUM_KILLS = 20
RUN = ["data.limit=300", "train.epochs=6", "train.checkpoint_every=3", "train.tokens_per_batch=1024", "train.ema=0.9"]


def _written(whole: Path, folder: Path, kills: list[str]) -> tuple[dict[str, int], list[int]]:
    """Sizes of the files in the order in which they are written, and the signals that ended the writers."""
    folder.mkdir()
    command = [sys.executable, str(WRITER), str(whole), str(folder), *kills]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout.splitlines()
    sizes = {name: int(size) for name, _, size in (entry.rpartition(":") for entry in lines[0].split())}
    return sizes, [int(line) for line in lines[1:]]


def _offsets(sizes: dict[str, int], dice: random.Random) -> list[str]:
    """A place in each file, the rest spread evenly over all bytes of the write."""
    places = [f"{name}:{dice.randrange(1, size)}" for name, size in sizes.items()]
    total, spread = sum(sizes.values()), NUM_KILLS - len(places)
    for part in range(spread):
        at = dice.randrange(total * part // spread, total * (part + 1) // spread)
        for name, size in sizes.items():
            if at < size:
                places.append(f"{name}:{max(1, at)}")
                break
            at -= size
    return places


@pytest.mark.fault(
    "killed in the middle of a checkpoint, at 20 byte offsets over all of its files",
    seen="nothing: the half one is cleared away",
    lost="steps since the checkpoint before it are computed again",
    proof="at each offset the one before is chosen",
)
def test_a_writer_killed_at_20_byte_offsets_leaves_the_one_before_it(
    tiny_checkpoint: Path, tmp_path: Path, dice: random.Random
) -> None:
    sizes, _ = _written(tiny_checkpoint, tmp_path / "first", [])
    assert [*sizes][-1] == "manifest.json", "written last"
    kills = _offsets(sizes, dice)
    assert len(kills) == NUM_KILLS
    assert {kill.rpartition(":")[0] for kill in kills} == set(sizes)
    sizes, signals = _written(tiny_checkpoint, tmp_path / "killed", kills)
    assert signals == [signal.SIGXFSZ] * NUM_KILLS
    for number, kill in enumerate(kills):
        run = tmp_path / "runs" / f"run-{number}"
        half = run / "checkpoints" / "step-00000006"
        shutil.copytree(tmp_path / "killed" / f"kill-{number}" / "step-00000006", half)
        name, _, offset = kill.rpartition(":")
        torn = _torn(half, kill)
        if name.endswith(".safetensors"):
            # The library asks for the whole size at once and names the file last; one that writes in place leaves this.
            torn.rename(half / name).write_bytes((tmp_path / "killed" / "reference" / name).read_bytes()[: int(offset)])
        with pytest.raises(CheckpointError, match="was not written to its end"):
            checkpoint.load(half)
        assert checkpoint.newest(half.parent) is None
        earlier = half.parent / "step-00000003"
        shutil.copytree(tiny_checkpoint, earlier)
        assert checkpoint.newest(half.parent) == earlier
        assert recover(run).checkpoint == earlier
        assert [path.name for path in half.parent.iterdir()] == [earlier.name], "the half is gone"


def _torn(half: Path, kill: str) -> Path:
    """The file that was being written: it is no longer than the offset, so the writer died there and nowhere else."""
    name, _, offset = kill.rpartition(":")
    target = half / name
    unnamed = [*target.parent.glob(".tmp*"), *target.parent.glob(f".{target.name}.*")]
    [torn] = unnamed or [target]
    assert torn.stat().st_size <= int(offset)
    return torn


class Ears(Watcher):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def unbroken(home: Path) -> Path:
    """A run that kept every checkpoint, with `train.ema`, so that three files hold weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELIOSTAT_HOME", str(home))
        return launch.train(load("sentiment/tiny", [*RUN, "train.keep_checkpoints=99"]), run_id="unbroken").folder


@pytest.fixture
def died(unbroken: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same run as it was when it had written three checkpoints and died."""
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    shutil.copytree(home / "prepared", tmp_path / "prepared")
    folder = tmp_path / "runs" / "died"
    shutil.copytree(unbroken, folder)
    (folder / "outcome.json").unlink()
    for path in sorted((folder / "checkpoints").glob("step-*"))[3:]:
        shutil.rmtree(path)
    return folder


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _hashes(folder: Path) -> dict[str, Any]:
    last = max((folder / "checkpoints").glob("step-*"))
    files = dict(checkpoint.verify(last)["files"])
    del files["lineage.json"], files["run.json"]  # they name the run
    return files


@pytest.mark.fault(
    "a file of the newest checkpoint is cut short, changed or emptied",
    seen="`It lies in …/damaged-step-… now and is passed over.`",
    lost="steps since the checkpoint before it are computed again",
    proof="weights of the unbroken run, to the bit",
)
@pytest.mark.parametrize(
    ("damage", "name", "words"),
    [
        (_truncate, "encoder/model.safetensors", "encoder/model.safetensors has"),
        (_flip, "state/optimizer.safetensors", "state/optimizer.safetensors was changed"),
        (_flip, "state/weights.safetensors", "state/weights.safetensors was changed"),
        (_empty, "manifest.json", "damaged manifest.json"),
        (Path.unlink, "head/model.safetensors", "lacks head/model.safetensors"),
    ],
)
def test_a_run_goes_on_before_the_damaged_one_to_the_same_bits(
    died: Path, unbroken: Path, damage: Callable[[Path], None], name: str, words: str, is_seen: Callable[[str], None]
) -> None:
    _, whole, newest = sorted((died / "checkpoints").glob("step-*"))
    damage(newest / name)
    assert checkpoint.newest(died / "checkpoints") == whole
    ears = Ears()
    result = launch.train(None, resume="died", watcher=ears)
    assert len(ears.warnings) == 1
    assert words in ears.warnings[0]
    is_seen(ears.warnings[0])
    assert f"damaged-{newest.name}" in ears.warnings[0]
    assert _hashes(result.folder) == _hashes(unbroken)


@pytest.mark.fault(
    "each file of the newest checkpoint in turn is cut short, changed, emptied, removed",
    seen="a warning that names the file and where the checkpoint lies now",
    lost="steps since the checkpoint before it are computed again",
    proof="the checkpoint before it is chosen, for every file and damage",
)
def test_each_file_of_the_newest_checkpoint_counts(died: Path, tmp_path: Path) -> None:
    checkpoints = died / "checkpoints"
    _, whole, newest = sorted(checkpoints.glob("step-*"))
    files = [str(path.relative_to(newest)) for path in newest.rglob("*") if path.is_file()]
    assert set(files) == {*checkpoint.verify(newest)["files"], "manifest.json"}
    assert checkpoint.newest(checkpoints) == newest
    for name in files:
        # A manifest has no hash of its own: what may change there unseen is what it tells people.
        damages: list[Callable[[Path], None]] = [_truncate, _empty, Path.unlink]
        for damage in [*damages, *([] if name == "manifest.json" else [_flip])]:
            before = (newest / name).read_bytes()
            damage(newest / name)
            assert checkpoint.newest(checkpoints) == whole, f"{damage} of {name}"
            (newest / name).write_bytes(before)
    assert checkpoint.newest(checkpoints) == newest


@pytest.mark.fault(
    "every checkpoint is damaged",
    seen="`error the run … cannot go on: none of its checkpoints is whole.`; exit code 2",
    lost="the run, unless a copy is put back; nothing is thrown away",
    proof="the folders are still there",
)
def test_with_none_left_a_person_reads_one_sentence(died: Path, tmp_path: Path, is_seen: Callable[[str], None]) -> None:
    for path in (died / "checkpoints").glob("step-*"):
        _flip(path / "encoder" / "model.safetensors")
    command = [sys.executable, "-m", "heliostat", "train", "--no-evaluate", "--resume", "died"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.startswith("error the run 'died' cannot go on: none of its checkpoints is whole.")
    is_seen(done.stderr)
    assert len(done.stderr.strip().splitlines()) == 1
    assert len([*(died / "checkpoints").glob("step-*")]) == 3, "nothing is thrown away"


@pytest.mark.fault(
    "half a checkpoint, a half fetched one and a folder of Ray are left by a dead process",
    seen="nothing",
    lost="nothing",
    proof="weights of the unbroken run, to the bit",
)
def test_what_a_dead_process_left_is_cleared_at_the_next_start(died: Path, unbroken: Path) -> None:
    checkpoints = died / "checkpoints"
    half = checkpoints / "step-99999999"
    shutil.copytree(max(checkpoints.glob("step-*")), half)
    (half / "manifest.json").rename(half / ".manifest.json.1234")
    (died / "ray-abcd" / "workers").mkdir(parents=True)
    (died / "ray-abcd" / "workers" / "checkpoint_manager_snapshot.json").write_text('{"checkpoint_re')
    (checkpoints / ".fetching-step-00000001").mkdir()
    ears = Ears()
    result = launch.train(None, resume="died", watcher=ears)
    assert ears.warnings == []
    left = [path.name for path in [*died.iterdir(), *checkpoints.iterdir()]]
    assert not [name for name in left if name.startswith(("ray-", ".")) or name == half.name], left
    assert _hashes(result.folder) == _hashes(unbroken)


def test_the_newest_and_the_best_are_kept(unbroken: Path, tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(unbroken / "checkpoints", checkpoints)
    names = sorted(path.name for path in checkpoints.glob("step-*"))
    assert len(names) > 4
    checkpoint.collect(checkpoints, keep=2, best=int(names[1].removeprefix("step-")))
    assert sorted(path.name for path in checkpoints.iterdir()) == [names[1], *names[-2:]]
