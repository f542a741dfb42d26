"""A member of a population takes over what another one has learned."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from heliostat import checkpoint
from heliostat.data.fingerprint import write_whole
from heliostat.errors import CheckpointError

_STAGED = ".taken"


def hand_over(donor: Path, member: Path, step: int) -> str:
    """Put the donor's checkpoints and journal in place of the member's; the SHA-256 of the manifest of `step`.

    Nobody trains in either folder. Done again after it was cut short, it does the same. Raises CheckpointError when
    what has arrived is not what the donor's hashes say.
    """
    staged, kept = member / _STAGED, member / "checkpoints"
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(donor / "checkpoints", staged, copy_function=_linked)
    found = checkpoint.step_folder(staged, step)
    checkpoint.verify(found)
    hashes = [
        hashlib.sha256((folder / checkpoint.MANIFEST).read_bytes()).hexdigest()
        for folder in (found, checkpoint.step_folder(donor / "checkpoints", step))
    ]
    if hashes[0] != hashes[1]:
        raise CheckpointError(f"the checkpoint of step {step} in {member} is not that in {donor}.")
    shutil.rmtree(kept, ignore_errors=True)
    staged.rename(kept)
    write_whole(member / "metrics.jsonl", (donor / "metrics.jsonl").read_bytes())
    return hashes[0]


def _linked(source: str, target: str) -> str:
    """A file of a checkpoint never changes, so that two folders may hold one; where they cannot, it is copied."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
