"""The pretrained weights below an adapter: where they lie, and a hash by which they are known again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from heliostat.encoders.pretrained import resolve
from heliostat.errors import CheckpointError, RunError
from heliostat.lineage import fixed

BASE = "adapter_base.json"
"""Beside an adapter (or what was merged from one): the address of its base, and file name -> sha256."""


class Base(NamedTuple):
    """Pretrained weights, by address and content."""

    address: str
    """A folder's absolute path, a model of ours (`name:3`), `package:<package>/<folder>` or a hub name."""
    files: dict[str, str]
    """Name of each file of weights -> its sha256."""

    @classmethod
    def of(cls, address: str) -> Base:
        """What lies at an address now. Raises RunError when there is nothing, or a pickle."""
        source = resolve(address)
        is_folder = Path(source).is_dir()
        paths = sorted(Path(source).glob("*.safetensors")) if is_folder else _of_hub(source)
        here = Path(address).expanduser()
        address = str(here.resolve()) if is_folder and here.is_dir() else fixed(address)
        return cls(address, {path.name: _sha256(path) for path in paths})

    @classmethod
    def read(cls, folder: Path) -> Base:
        """The base that an adapter's folder names. Raises CheckpointError when it names none."""
        try:
            values = json.loads((folder / BASE).read_text(encoding="utf-8"))
            return cls(str(values["address"]), dict(values["files"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / BASE} cannot be read: {error}") from None

    def write(self, folder: Path) -> None:
        """Write what `read` reads."""
        (folder / BASE).write_text(json.dumps(self._asdict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def verify(self) -> None:
        """Raises CheckpointError when the base is gone, or no longer what the adapter was trained on."""
        try:
            found = Base.of(self.address)
        except (RunError, OSError) as error:
            reason = error.problems[0].rule if isinstance(error, RunError) else str(error).splitlines()[0]
            raise CheckpointError(
                f"this checkpoint holds an adapter, and its base is gone: {reason} Put it back there, or train with "
                "encoder.adapter.merge=true, whose checkpoints need no base."
            ) from None
        self.match(found)

    def match(self, found: Base) -> None:
        """Raises CheckpointError when `found` has another content."""
        if found.files != self.files:
            odd = sorted(name for name in {*found.files, *self.files} if found.files.get(name) != self.files.get(name))
            raise CheckpointError(
                f"this checkpoint holds an adapter, and its base at '{found.address}' is another than it was trained "
                f"on: sha256 of {', '.join(odd)} differs. Put the old one back."
            )


def _of_hub(name: str) -> list[Path]:
    """The files of weights of a model of a hub, from the local cache where they are there."""
    from transformers.utils import cached_file

    index = cached_file(name, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False)
    if index is None:
        return [Path(cached_file(name, "model.safetensors"))]
    parts = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
    return [Path(cached_file(name, part)) for part in sorted(parts)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
