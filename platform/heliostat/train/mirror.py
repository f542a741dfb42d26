"""A copy of a run in a bucket, or in any other place that pyarrow reaches by an address.

    s3://bucket/prefix/<run id>/
    ├── run.json, lineage.json, prepared, metrics.jsonl      as in the run's folder
    └── checkpoints/step-00000120/...                        file by file, manifest.json last

Nothing relies on a rename or on a lock: a checkpoint in the bucket is whole when its manifest is there, as on a disk.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from heliostat import checkpoint
from heliostat.errors import CheckpointError, TrainError
from heliostat.lineage import LINEAGE

RUN_FILES = ("run.json", LINEAGE, "prepared", "metrics.jsonl")
"""What a run needs beside its checkpoints to go on elsewhere."""
_CHUNK = 1 << 20


class Mirror:
    """The copy of one run at `address`. Methods raise OSError when the place cannot be reached or refuses."""

    def __init__(self, address: str, run_id: str) -> None:
        self.address = f"{address.rstrip('/')}/{run_id}"

    def __str__(self) -> str:
        return self.address

    @cached_property
    def _place(self) -> tuple[Any, str]:
        from pyarrow.fs import FileSystem

        files, root = FileSystem.from_uri(self.address)
        return files, str(root)

    def names(self) -> dict[str, set[str]]:
        """The checkpoints that are there, and the names of their files; whole or not."""
        from pyarrow.fs import FileSelector, FileType

        files, root = self._place
        found: dict[str, set[str]] = defaultdict(set)
        base = f"{root}/checkpoints"
        for entry in files.get_file_info(FileSelector(base, recursive=True, allow_not_found=True)):
            name, _, file = str(entry.path)[len(base) :].lstrip("/").partition("/")
            if entry.type == FileType.File and file and ".." not in PurePosixPath(file).parts:
                found[name].add(file)
        return dict(found)

    def whole(self) -> list[str]:
        """The names of the checkpoints whose manifest is there, the newest last."""
        return sorted(name for name, files in self.names().items() if checkpoint.MANIFEST in files)

    def exists(self) -> bool:
        """Whether there is a run."""
        from pyarrow.fs import FileType

        files, root = self._place
        return bool(files.get_file_info(f"{root}/run.json").type == FileType.File)

    def put_run(self, folder: Path) -> None:
        """Copy what the run needs beside its checkpoints."""
        for name in RUN_FILES:
            if (folder / name).is_file():
                self._put(folder / name, name)

    def put(self, path: Path) -> None:
        """Copy a whole checkpoint, its manifest last. One that is removed meanwhile is left out."""
        names = [str(file.relative_to(path)) for file in sorted(path.rglob("*")) if file.is_file()]
        if checkpoint.MANIFEST not in names:
            return
        names = [*(name for name in names if name != checkpoint.MANIFEST), checkpoint.MANIFEST]
        for name in names:
            if not (path / checkpoint.MANIFEST).exists() or not self._put(
                path / name, f"checkpoints/{path.name}/{name}"
            ):
                return

    def _put(self, path: Path, name: str) -> bool:
        files, root = self._place
        try:
            source = path.open("rb")
        except FileNotFoundError:
            return False
        with source:
            target = f"{root}/{name}"
            if files.type_name in ("local", "hdfs"):  # a bucket has no folders
                files.create_dir(target.rpartition("/")[0], recursive=True)
            with files.open_output_stream(target) as sink:
                while chunk := source.read(_CHUNK):
                    sink.write(chunk)
        return True

    def remove(self, name: str, its_files: set[str]) -> None:
        """Remove a checkpoint, its manifest first: half a one must not look whole."""
        files, root = self._place
        if checkpoint.MANIFEST in its_files:
            files.delete_file(f"{root}/checkpoints/{name}/{checkpoint.MANIFEST}")
        files.delete_dir(f"{root}/checkpoints/{name}")

    def fetch(self, checkpoints: Path) -> list[Path]:
        """Bring every checkpoint whose hashes hold into `checkpoints` that is not there: those that it brought."""
        brought = []
        for name, its_files in sorted(self.names().items()):
            here = checkpoints / name
            if not name.startswith("step-") or checkpoint.MANIFEST not in its_files or here.exists():
                continue
            staged = checkpoints / f".fetching-{name}"
            for file in its_files:
                self._get(f"checkpoints/{name}/{file}", staged / file)
            try:
                checkpoint.verify(staged)
                brought.append(staged.rename(here))
            except CheckpointError:
                shutil.rmtree(staged, ignore_errors=True)
        return brought

    def fetch_run(self, folder: Path) -> None:
        """Bring what the run needs beside its checkpoints."""
        from pyarrow.fs import FileType

        files, root = self._place
        for name in RUN_FILES:
            if files.get_file_info(f"{root}/{name}").type == FileType.File:
                self._get(name, folder / name)

    def _get(self, name: str, path: Path) -> None:
        files, root = self._place
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.open_input_stream(f"{root}/{name}") as source, path.open("wb") as sink:
            shutil.copyfileobj(source, sink, _CHUNK)


def reason(error: Exception) -> str:
    """What an error of a store says, on one line and without its tail of details."""
    return " ".join(str(error).split()).partition("; Details")[0][:300]


def claim(mirror: Mirror, folder: Path) -> None:
    """Write down a new run in its mirror, before anything costs time. Raises TrainError when that cannot be."""
    try:
        if mirror.exists():
            raise TrainError(f"the run '{folder.name}' exists at {mirror}. Choose another id.")
        mirror.put_run(folder)
    except (OSError, ValueError) as error:  # ValueError: of an address that pyarrow does not know
        raise TrainError(
            f"train.mirror: {mirror} cannot be written: {reason(error)}. Mend the address or the rights, or train "
            "without a mirror."
        ) from error


def bring(address: str, runs: Path) -> str:
    """Bring the run at `address` here, with its whole checkpoints, unless it is here; its id.

    Raises TrainError when there is no run, or the place cannot be reached.
    """
    prefix, _, run_id = address.rstrip("/").rpartition("/")
    if (runs / run_id / "run.json").is_file():
        return run_id
    mirror, staged = Mirror(prefix, run_id), runs / f".fetching-{run_id}"
    shutil.rmtree(staged, ignore_errors=True)
    try:
        if not mirror.exists():
            raise TrainError(f"there is no run at {address}.")
        mirror.fetch_run(staged)
        mirror.fetch(staged / "checkpoints")
    except (OSError, ValueError) as error:  # ValueError: of an address that pyarrow does not know
        raise TrainError(f"{address} cannot be read: {reason(error)}.") from error
    values = json.loads((staged / "run.json").read_text(encoding="utf-8"))
    values["train"]["mirror"] = prefix  # where it was found, wherever it was written
    (staged / "run.json").write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")
    staged.rename(runs / run_id)
    return run_id
