"""The ancestors of a run: written into its folder before it starts, so that every checkpoint can carry them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from heliostat import checkpoint, lineage
from heliostat.data.prepared import Prepared
from heliostat.lineage import LINEAGE, Entry
from heliostat.run import Parts, Run, parent_address


def ancestors_of(run: Run) -> list[Entry]:
    """The chain that ends in the model that `run` goes on from; empty where it starts from nothing.

    Raises CheckpointError when that model is damaged, RunError when it is not there.
    """
    address = parent_address(run)
    return [] if address is None else _ancestors(address)


def note_ancestors(folder: Path, chain: list[Entry]) -> None:
    """Write the ancestors of a run into its folder."""
    (folder / LINEAGE).write_text(json.dumps(chain, ensure_ascii=False, indent=1), encoding="utf-8")


def read_ancestors(folder: Path) -> list[Entry]:
    """What `note_ancestors` wrote; nothing for a folder without."""
    path = folder / LINEAGE
    chain: list[Entry] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return chain


def _ancestors(address: str) -> list[Entry]:
    ours = lineage.checkpoint_of(address)
    if ours is None:
        return [{"address": address, "sha256": _weights_hash(address)}]
    checkpoint.verify(ours)
    *before, parent = lineage.read(ours)
    return [*before, {**parent, "address": address, "sha256": lineage.fingerprint(ours)}]


def _weights_hash(address: str) -> str | None:
    """The hash of a pretrained model's weights, where they lie in one file of a folder."""
    from heliostat.encoders.pretrained import WEIGHTS, resolve

    path = Path(resolve(address)) / WEIGHTS
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fitted_parts(run: Run, prepared: Prepared, folder: Path) -> Parts:
    """What was fitted, from the run's own checkpoint where it has one: then nothing is asked of a pretrained model.

    An adapter goes on beside its base, also where its checkpoints hold the two merged: it asks for the base again.
    """
    path = checkpoint.newest(folder / "checkpoints")
    has_adapter = getattr(run.encoder.settings, "adapter", None) is not None
    return prepared.parts(run) if path is None or has_adapter else checkpoint.load_parts(run, path)
