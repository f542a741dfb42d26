"""A checkpoint that was damaged or planted: one sentence, and no file of it runs code."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from heliostat import checkpoint
from heliostat.errors import CheckpointError
from heliostat.predict import Predictor


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint to damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "damaged"))


def names(folder: Path) -> list[str]:
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return [name for name in files if not name.startswith("state/")]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed"])
def test_a_damaged_file_is_one_sentence(tiny_checkpoint: Path, tmp_path: Path, damage: str) -> None:
    for name in names(tiny_checkpoint):
        copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / damage, dirs_exist_ok=True))
        path = copy / name
        content = path.read_bytes()
        middle = len(content) // 2
        if damage == "removed":
            path.unlink()
        else:
            flipped = content[:middle] + bytes([content[middle] ^ 0x40]) + content[middle + 1 :]
            path.write_bytes(content[:middle] if damage == "truncated" else flipped)
        with pytest.raises(CheckpointError) as caught:
            Predictor.load(copy)
        assert "\n" not in str(caught.value), name


@pytest.mark.parametrize(
    "manifest",
    ["", "[]", "null", "{}", '{"format": 1}', '{"format": 1, "files": []}', '{"format": 1, "files": {"a": 1}}'],
)
def test_a_damaged_manifest_is_one_sentence(copy: Path, manifest: str) -> None:
    (copy / "manifest.json").write_text(manifest)
    with pytest.raises(CheckpointError):
        Predictor.load(copy)


class Bomb:
    """What runs when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize(
    "place", ["encoder/model.safetensors", "head/model.safetensors", "encoder/tokenizer.json", "run.json"]
)
def test_a_pickle_is_never_executed(copy: Path, tmp_path: Path, place: str) -> None:
    marker = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(marker))
    pickle.loads(bomb)  # noqa: S301  (the bomb works)
    assert marker.exists()
    marker.unlink()
    (copy / place).write_bytes(bomb)
    checkpoint.seal(copy, {})  # an attacker can hash, too
    with pytest.raises(CheckpointError):
        Predictor.load(copy)
    assert not marker.exists()


def test_weights_in_a_pickle_format_are_refused(copy: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    (copy / "encoder" / "model.safetensors").unlink()
    (copy / "encoder" / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(marker)))
    checkpoint.seal(copy, {})
    with pytest.raises(CheckpointError, match="only safetensors"):
        Predictor.load(copy)
    assert not marker.exists()
