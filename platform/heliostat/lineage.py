"""From which model a model goes on: the addresses of ours, and the chain that every checkpoint carries.

An address is `name@champion` or `name:3` (a model of the store), the id of a run, or the folder of a checkpoint; all
others (`package:...`, other folders, names of a hub) are no models of ours, and None stands for them here.
`lineage.json` in a checkpoint is a list of entries from the first ancestor to the checkpoint itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heliostat.component import closest
from heliostat.errors import Problem, RunError
from heliostat.home import home

LINEAGE = "lineage.json"
Entry = dict[str, Any]
"""One training: name, run_id, encoder, head, source, data_key, steps, tokens; of an ancestor also address and sha256.
Of a model that is not ours: address and sha256."""

_NAME = r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?"
_STORED = re.compile(rf"({_NAME})(?:@({_NAME})|:([0-9]{{1,9}}))")
_RUN = re.compile(rf"(?:run:)?({_NAME})(?:/(step-[0-9]{{8}}))?")


def fixed(address: str) -> str:
    """The same model by an address that never moves: `name:3` for an alias, `run:<id>/step-00000120` for a run.

    Raises RunError naming what was probably meant when there is no such model.
    """
    stored = _STORED.fullmatch(address)
    if stored:
        name, alias, number = stored.groups()
        version = int(number) if number else _aliased(name, alias)
        if not _version_folder(name, version).is_dir():
            raise _problem(address, f"is not in the store ({home() / 'models'}).{_guess(name)}")
        return f"{name}:{version}"
    run = _run_folder(address)
    if run is None:
        return address
    return f"run:{run.name}/{_checkpoint_of_run(address, run).name}"


def checkpoint_of(address: str) -> Path | None:
    """The checkpoint that an address of ours stands for; None for any other. Raises RunError as `fixed` does."""
    stored = _STORED.fullmatch(address)
    if stored:
        name, _, number = fixed(address).partition(":")
        return _version_folder(name, int(number))
    run = _run_folder(address)
    if run is not None:
        return _checkpoint_of_run(address, run)
    folder = Path(address).expanduser()
    if folder.name == "encoder" and (folder.parent / "manifest.json").is_file():
        folder = folder.parent
    is_checkpoint = (folder / "manifest.json").is_file() and (folder / "encoder").is_dir()
    return folder if is_checkpoint else None


def read(checkpoint: Path) -> list[Entry]:
    """The chain of a checkpoint, itself last; of one without, what its run says."""
    path = checkpoint / LINEAGE
    if path.is_file():
        chain: list[Entry] = json.loads(path.read_text(encoding="utf-8"))
        return chain
    run = json.loads((checkpoint / "run.json").read_text(encoding="utf-8"))
    return [entry_of(run)]


def entry_of(run: Mapping[str, Any], **facts: Any) -> Entry:
    """The entry of a training: what its run (as plain values) says, and `facts` beside it."""
    said = {
        "name": run["name"],
        "encoder": run["encoder"]["type"],
        "head": run["head"]["type"],
        "source": run["data"]["source"],
    }
    return {**said, **facts}


def fingerprint(checkpoint: Path) -> str:
    """A hash of all that a checkpoint predicts with, from its manifest: the same for a run's and the store's copy."""
    files = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))["files"]
    kept = sorted((name, file["sha256"]) for name, file in files.items() if not name.startswith("state/"))
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()


def _version_folder(name: str, version: int) -> Path:
    return home() / "models" / name / "versions" / str(version) / "checkpoint"


def _aliased(name: str, alias: str) -> int:
    path = home() / "models" / name / "aliases.json"
    aliases = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if alias not in aliases:
        there = f" There are: {', '.join(sorted(aliases))}." if aliases else _guess(name)
        raise _problem(f"{name}@{alias}", f"is not in the store ({home() / 'models'}).{there}")
    return int(aliases[alias])


def _guess(name: str) -> str:
    there = sorted(path.name for path in (home() / "models").glob("*") if path.is_dir())
    guess = closest(name, there)
    return f" Did you mean '{guess}'?" if guess and guess != name else f" There are: {', '.join(there) or 'none'}."


def _run_folder(address: str) -> Path | None:
    """The folder of the run that an address names, where there is one. `run:` says that it must be there."""
    match = _RUN.fullmatch(address)
    if not match or (Path(address).is_dir() and not address.startswith("run:")):
        return None
    folder = home() / "runs" / match[1]
    if (folder / "run.json").is_file():
        return folder
    if address.startswith("run:"):
        raise _problem(address, f"names a run that is not there ({folder}).")
    return None


def _checkpoint_of_run(address: str, run: Path) -> Path:
    """The checkpoint that is named, or else the best one of a run that has ended, or else the newest."""
    match = _RUN.fullmatch(address)
    name = match[2] if match else None
    outcome = run / "outcome.json"
    if name is None and outcome.is_file():
        name = f"step-{int(json.loads(outcome.read_text(encoding='utf-8'))['best'][0]):08d}"
    whole = sorted(path.parent for path in (run / "checkpoints").glob("step-*/manifest.json"))
    chosen = [path for path in whole if name is None or path.name == name]
    if not chosen:
        there = ", ".join(path.name for path in whole) or "none"
        raise _problem(
            address, f"names a run without {'such a' if name else 'a whole'} checkpoint; there are: {there}."
        )
    return chosen[-1]


def _problem(address: str, rule: str) -> RunError:
    return RunError([Problem("encoder.pretrained", f"'{address}' {rule}")])
