"""A prepared folder: what one preparation made, for all workers, trials and restarts.

What lies where stands in the docstring of `heliostat.data`. The folder is complete when its manifest is there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from heliostat.component import Row
from heliostat.data.fingerprint import write_whole
from heliostat.data.shards import Shards
from heliostat.data.stored import Stored, read_stored
from heliostat.errors import DataError, told
from heliostat.run import Parts, Run, build

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")

MANIFEST = "manifest.json"
VERSION = 1
"""Of the folder's layout. Another version is made anew, because it is part of the key."""


@dataclass(frozen=True)
class Prepared:
    """Prepared data, opened and found whole. Open it with `Prepared.open(folder)`."""

    folder: Path
    key: str
    """What the data were made of: the source's fingerprint, the settings and the code's version."""
    counts: Mapping[str, int]
    """Examples of each split."""

    @classmethod
    def open(cls, folder: Path) -> Prepared:
        """The data in `folder`. Raises DataError when a file is missing or has another size than the manifest says."""
        manifest = _manifest(folder)
        for name, file in manifest["files"].items():
            path = folder / name
            size = path.stat().st_size if path.is_file() else None
            if size != file["size"]:
                found = "is missing" if size is None else f"has {size} bytes and had {file['size']}"
                raise DataError(f"{path} {found}. Delete {folder} and prepare the data anew.")
        return cls(folder, str(manifest["key"]), dict(manifest["counts"]))

    @classmethod
    def is_complete(cls, folder: Path) -> bool:
        """Whether a preparation into `folder` came to its end."""
        return (folder / MANIFEST).is_file()

    def verify(self) -> None:
        """Read every file and compare its hash. Raises DataError naming the first that differs."""
        for name, file in _manifest(self.folder)["files"].items():
            if _sha256(self.folder / name) != file["sha256"]:
                raise DataError(f"{self.folder / name} is damaged. Delete {self.folder} and prepare the data anew.")

    @cached_property
    def _shards(self) -> dict[str, Shards]:
        return {split: Shards.open(self.folder / split) for split in SPLITS}

    def shards(self, split: Split) -> Shards:
        """The encoded examples of a split, memory-mapped."""
        return self._shards[split]

    def joined(self, splits: str) -> Shards:
        """The shards of all splits that are named with `+` between them, as `train+valid`, one after the other."""
        first, *others = [self._shards[split] for split in splits.split("+")]
        return sum(others, start=first)

    def examples(self, split: Split) -> Iterator[Row]:
        """The examples of a split in the row order of its shards, with the columns carried along for slices."""
        for stored in self.stored(split):
            yield {**json.loads(stored.carried), **stored.values}

    def stored(self, split: Split) -> Iterator[Stored]:
        """The examples of a split in the row order of its shards, each with its id and place."""
        for path in sorted((self.folder / "examples").glob(f"{split}*.parquet")):
            yield from read_stored(path)

    def parts(self, run: Run) -> Parts:
        """The components of `run`, with what was fitted when these data were prepared."""
        parts = build(run)
        parts.encoder.load(self.folder / "encoder")
        parts.head.load(self.folder / "head")
        return parts

    def cleaning(self) -> list[dict[str, Any]]:
        """What each step of cleaning and balancing touched: {step, examples, effect, times}, in their order."""
        stats: dict[str, Any] = json.loads((self.folder / "stats.json").read_text(encoding="utf-8"))
        return list(stats.get("cleaning", ()))

    def leakage(self) -> dict[str, Any]:
        """How many examples of a split also stand, exactly or nearly, in another; and `suspects`, fields that tell."""
        found: dict[str, Any] = json.loads((self.folder / "leakage.json").read_text(encoding="utf-8"))
        return found


def seal(folder: Path, key: str, counts: Mapping[str, int]) -> Prepared:
    """Write the manifest of all files in `folder`, which says that it is complete."""
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    manifest = {"version": VERSION, "key": key, "counts": dict(counts), "files": files}
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())
    return Prepared.open(folder)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"version", "key", "counts", "files"} - manifest.keys()
    except FileNotFoundError:
        raise DataError(f"{folder} holds no prepared data: {MANIFEST}, which is written last, is not there.") from None
    except OSError as error:
        raise DataError(told(error, path)) from None
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path} cannot be read ({error}). Delete {folder} and prepare the data anew.") from None
    if missing or manifest["version"] != VERSION:
        raise DataError(f"{path} is of another version of Heliostat. Delete {folder} and prepare the data anew.")
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
