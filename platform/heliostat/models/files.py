"""How files enter the store: linked or copied, checked before and after, read-only, and whole or not there at all."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from heliostat.errors import CheckpointError

_STATE = "state"
"""The part of a checkpoint that only training needs: the optimiser, up to twice the size of the weights."""


def copy_checkpoint(source: Path, target: Path, *, link: bool) -> None:
    """Copy what a checkpoint needs to predict, without its training state, into a new folder `target`.

    With `link`, files share their disk blocks with the source where the disk can do that. Raises CheckpointError when
    the source is damaged, holds links, or changes meanwhile.
    """
    from heliostat import checkpoint

    expected = {
        name: entry
        for name, entry in checkpoint.verify(source)["files"].items()
        if PurePosixPath(name).parts[0] != _STATE
    }
    for name in expected:
        _check_inside(source, name)
    for name in expected:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(source / name, path) if link else shutil.copyfile(source / name, path)
    checkpoint.seal(target, {})
    if checkpoint.read_manifest(target)["files"] != expected:
        raise CheckpointError(f"checkpoint {source} changed while it was copied. Try again when its run has ended.")


def _check_inside(folder: Path, name: str) -> None:
    """A manifest that leads out of its folder, itself or by a link, is refused: it would copy other people's files."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()) or path.is_symlink() or ".." in PurePosixPath(name).parts:
        raise CheckpointError(f"checkpoint {folder}: {name} leads out of its folder.")


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another disk, or one that has no links
        shutil.copyfile(source, target)


def copy_report(source: Path, target: Path) -> None:
    """Copy a report (its folder, or one file of it) into the folder `target`; links are left out."""
    files = [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]
    root = source if source.is_dir() else source.parent
    for path in files:
        if not path.is_symlink():
            copy = target / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def make_read_only(folder: Path) -> None:
    """Take the right to write from every file below `folder`."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)


def write_json(path: Path, value: Any, *, mode: int = 0o644) -> None:
    """Put `value` at `path` in one step: a reader sees the old file or the new one, never a part."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    with staged.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    staged.chmod(mode)
    staged.replace(path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for a change that reads first; another process waits its turn."""
    with (folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def count_numbers(folder: Path) -> int:
    """The numbers in all `model.safetensors` below `folder`, read from their headers: no weight is loaded."""
    from safetensors import safe_open

    total = 0
    for path in sorted(folder.rglob("model.safetensors")):
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (no mapping)
                count = 1
                for size in tensors.get_slice(name).get_shape():
                    count *= size
                total += count
    return total
