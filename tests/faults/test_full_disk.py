"""A disk that takes no more: one sentence, the last good checkpoint kept, and the run goes on once there is room.

The error comes from the system: a small tmpfs in a mount namespace of its own, and a limit on the size of files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heliostat import checkpoint
from heliostat.run import load
from heliostat.train import launch

RUN = ["data.limit=300", "train.epochs=6", "train.checkpoint_every=3", "train.tokens_per_batch=1024"]

_IN_A_SMALL_DISK = """
set -eu
mount -t tmpfs -o size="$SIZE" tmpfs "$HELIOSTAT_HOME/runs"
head -c "$BALLAST" /dev/zero > "$HELIOSTAT_HOME/runs/ballast"
set +e
"$PYTHON" -m heliostat train --no-evaluate sentiment/tiny $RUN --run-id full
echo "exit $?"
ls "$HELIOSTAT_HOME/runs/full/checkpoints"
rm "$HELIOSTAT_HOME/runs/ballast"
"$PYTHON" -m heliostat train --no-evaluate --resume full
echo "exit $?"
cp -r "$HELIOSTAT_HOME/runs/full" "$HELIOSTAT_HOME/saved"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def unbroken(home: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELIOSTAT_HOME", str(home))
        return launch.train(load("sentiment/tiny", RUN), run_id="unbroken").folder


def _hashes(folder: Path) -> dict[str, Any]:
    files = dict(checkpoint.verify(max((folder / "checkpoints").glob("step-*")))["files"])
    del files["lineage.json"], files["run.json"]  # they name the run
    return files


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.fault(
    "the disk fills up while a checkpoint is written",
    seen="`error …No space left on device…Make room, then continue with --resume …`; exit code 2",
    lost="steps since the last checkpoint are computed again; of the result nothing",
    proof="weights of the unbroken run, to the bit",
)
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(
    home: Path, unbroken: Path, is_seen: Callable[[str], None]
) -> None:
    trial = subprocess.run(["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    if trial.returncode:
        pytest.skip(f"no mount namespace here: {trial.stderr.decode().strip()}")
    one = _size(max((unbroken / "checkpoints").glob("step-*")))
    shutil.move(home / "runs", home / "before")
    (home / "runs").mkdir()
    settings = {
        "SIZE": str(8 * one),
        "BALLAST": str(int(5.5 * one)),  # what is left holds two checkpoints and half of a third
        "PYTHON": sys.executable,
        "RUN": " ".join(RUN),
        "HELIOSTAT_HOME": str(home),
    }
    command = ["unshare", "-Urm", "sh", "-c", _IN_A_SMALL_DISK]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    assert "exit 2" in done.stdout, said
    assert done.stdout.rstrip().endswith("exit 0"), said
    assert "Traceback" not in said, said
    errors = [line for line in done.stderr.splitlines() if line.startswith("error ")]
    assert len(errors) == 1, said
    is_seen(errors[0])
    assert "No space left on device" in errors[0], said
    assert "--resume full" in errors[0], said
    assert "step-00000003" in done.stdout, said
    assert _hashes(home / "saved") == _hashes(home / "before" / "unbroken")


@pytest.mark.fault(
    "a limit on the size of files is hit",
    seen="`error …File too large…--resume …`; exit code 2",
    lost="steps since the last checkpoint, until it is resumed",
    proof="no half of a checkpoint is left",
)
def test_a_limit_on_the_size_of_files_is_one_sentence(tmp_path: Path, is_seen: Callable[[str], None]) -> None:
    # ulimit counts blocks of 512 bytes in sh; the weights fit, the optimiser's state does not.
    train = f"exec '{sys.executable}' -m heliostat train --no-evaluate sentiment/tiny {' '.join(RUN)}"
    command = ["sh", "-c", f"ulimit -f 1000; {train}"]
    environment = {**os.environ, "HELIOSTAT_HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error ")
    is_seen(done.stderr)
    assert "--resume sentiment-tiny-" in done.stderr
    assert not [*tmp_path.glob("runs/*/checkpoints/step-*")], "no half is left"
