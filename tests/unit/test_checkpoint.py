"""A checkpoint is whole or it is not taken, and it never runs code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from heliostat import checkpoint
from heliostat.errors import CheckpointError


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    copy = tmp_path / "checkpoints" / tiny_checkpoint.name
    shutil.copytree(tiny_checkpoint, copy)
    return copy


def _predict(loaded: checkpoint.Loaded) -> list[object]:
    from heliostat.train.golden import Golden

    return [answer for _, answer in Golden.of(loaded.parts).answers(loaded.model.eval())]


def test_loaded_model_gives_the_golden_answers(folder: Path) -> None:
    loaded = checkpoint.load(folder)
    golden = checkpoint.golden(folder)
    assert len(golden) == 3
    assert _predict(loaded) == [prediction for _, prediction in golden]
    assert checkpoint.load_state(folder).trainer["position"] == [6, 1, 0]


def test_every_truncated_or_flipped_file_is_named(folder: Path) -> None:
    names = list(checkpoint.verify(folder)["files"])
    assert {"run.json", "encoder/model.safetensors", "head/model.safetensors", "golden.jsonl"} <= set(names)
    for name in names:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-1])
        with pytest.raises(CheckpointError, match=rf"{name} has {len(whole) - 1} bytes"):
            checkpoint.verify(folder)
        (folder / name).write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        with pytest.raises(CheckpointError, match=rf"{name} was changed"):
            checkpoint.load(folder)
        (folder / name).unlink()
        with pytest.raises(CheckpointError, match=f"lacks {name}"):
            checkpoint.load(folder)
        (folder / name).write_bytes(whole)
    checkpoint.verify(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99, "files": {}}', '{"files": {}}'])
def test_a_damaged_manifest_is_one_sentence(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"damaged manifest|format 99"):
        checkpoint.load(folder)


def test_the_newest_whole_one_wins(folder: Path) -> None:
    later = folder.parent / "step-00000009"
    shutil.copytree(folder, later)
    assert checkpoint.newest(folder.parent) == later
    (later / "manifest.json").unlink()
    assert checkpoint.newest(folder.parent) == folder
    shutil.rmtree(folder)
    assert checkpoint.newest(folder.parent) is None


def test_a_file_that_could_hold_code_is_refused(folder: Path) -> None:
    (folder / "head" / "weights.pkl").write_bytes(b"anything")
    checkpoint.seal(folder, {})
    with pytest.raises(CheckpointError, match=r"head/weights\.pkl: only safetensors and JSON"):
        checkpoint.load(folder)


def test_a_pickle_named_safetensors_is_never_executed(folder: Path, tmp_path: Path) -> None:
    import pickle

    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (marker,))

    (folder / "head" / "model.safetensors").write_bytes(pickle.dumps(Evil()))
    checkpoint.seal(folder, {})
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(folder)
    assert not marker.exists()


def test_a_full_disk_is_one_sentence_and_leaves_no_half(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = checkpoint.load(tiny_checkpoint)
    snapshot = checkpoint.Snapshot(loaded.run, loaded.parts, loaded.model, loaded.model.state_dict(), list, None)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "seal", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        checkpoint.save(tmp_path / "step-00000001", snapshot)
    assert not (tmp_path / "step-00000001").exists()


def test_no_file_holds_anything_but_safetensors_and_json(tiny_checkpoint: Path) -> None:
    suffixes = {path.suffix for path in tiny_checkpoint.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".jsonl", ".safetensors", ".txt"}
    json.loads((tiny_checkpoint / "run.json").read_text())


def test_a_sector_that_cannot_be_read_is_one_sentence_and_an_earlier_checkpoint_is_found(folder: Path) -> None:
    later = folder.with_name("step-00000007")
    shutil.copytree(folder, later)
    manifest = json.loads((later / "manifest.json").read_text())
    manifest["files"]["run.json"]["size"] = 0
    (later / "manifest.json").write_text(json.dumps(manifest))
    (later / "run.json").unlink()
    (later / "run.json").symlink_to("/proc/self/mem")  # a file whose first byte gives EIO
    with pytest.raises(CheckpointError, match=r"run\.json cannot be read: Input/output error\. Take an earlier one"):
        checkpoint.verify(later)
    (later / "manifest.json").unlink()
    (later / "manifest.json").symlink_to("/proc/self/mem")
    with pytest.raises(CheckpointError, match=r"manifest\.json cannot be read"):
        checkpoint.verify(later)
    assert checkpoint.newest(folder.parent) == folder
