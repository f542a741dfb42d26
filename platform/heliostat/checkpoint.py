"""One folder that needs nothing else to predict or to continue.

    step-00000120/
    ├── run.json         the resolved run
    ├── lineage.json     from which models and data it came, the first ancestor first
    ├── encoder/         what the encoder fitted, and model.safetensors: plain AutoModel loads core.text's
    ├── head/            what the head fitted, and model.safetensors
    ├── golden.jsonl     answers to the head's sample records, to be replayed before the model takes traffic
    ├── state/           where training stood: trainer.json, optimizer.safetensors, weights.safetensors (under EMA),
    │                    adapter.safetensors (where an adapter trains)
    └── manifest.json    name -> size and sha256 of every other file; written last, so a folder with one is whole

Only safetensors and JSON are ever read: no file of a checkpoint can run code.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from heliostat.component import Row
from heliostat.errors import CheckpointError, RunError
from heliostat.lineage import LINEAGE, Entry
from heliostat.run import Parts, Run, build, check

if TYPE_CHECKING:
    from torch import Tensor

    from heliostat.model import Model

MANIFEST = "manifest.json"
_FORMAT = 1
_CODE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}
"""Formats that can run code when they are read; a checkpoint that holds one is refused."""


class TrainingState(NamedTuple):
    """Where training stood, beside the weights that are served."""

    trainer: dict[str, Any]
    """Position, best score, history: plain values."""
    optimizer: dict[str, Tensor]
    weights: dict[str, Tensor] | None
    """The weights that training goes on with, where they differ from those that are served (EMA)."""
    adapter: dict[str, Tensor] | None = None
    """Of an adapter: `weights/<name>`, which the encoder's folder may hold merged, and `ranks/...` of AdaLoRA."""


class Snapshot(NamedTuple):
    """All that a checkpoint will hold, copied out of the model, so that a background thread can write it."""

    run: Run
    parts: Parts
    model: Model
    weights: dict[str, Tensor]  # as in Model.state_dict(): what is served
    golden: Callable[[], list[tuple[Row, Row]]]
    """The sample records with what the weights answer them; called when it is written."""
    state: TrainingState | None
    lineage: Sequence[Entry] = ()
    """From the first ancestor to this one."""


class Loaded(NamedTuple):
    """A checkpoint in memory, ready to predict."""

    folder: Path
    run: Run
    parts: Parts
    model: Model


def save(folder: Path, snapshot: Snapshot) -> None:
    """Write a whole checkpoint; its manifest comes last. Raises CheckpointError when the disk takes no more."""
    from safetensors import SafetensorError

    try:
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted write left has no manifest
        folder.mkdir(parents=True)
        _write(folder, snapshot)
        seal(folder, {"trainer": snapshot.state.trainer} if snapshot.state else {})
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        shutil.rmtree(folder, ignore_errors=True)
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise CheckpointError(
            f"checkpoint {folder} could not be written: {why}. Earlier ones are kept. Make room, then continue with "
            f"--resume {folder.parent.parent.name}."
        ) from error


def _write(folder: Path, snapshot: Snapshot) -> None:
    from safetensors.torch import save_file

    _write_json(folder / "run.json", snapshot.run.dump())
    if snapshot.lineage:
        _write_json(folder / LINEAGE, list(snapshot.lineage))
    for name in ("encoder", "head"):
        (folder / name).mkdir()
    parts, model = snapshot.parts, snapshot.model
    parts.encoder.save(folder / "encoder")
    parts.encoder.save_weights(model.encoder, folder / "encoder", below(snapshot.weights, "encoder."))
    parts.head.save(folder / "head")
    save_file(below(snapshot.weights, "head."), folder / "head" / "model.safetensors")
    with (folder / "golden.jsonl").open("w", encoding="utf-8") as file:
        for example, prediction in snapshot.golden():
            file.write(json.dumps({"example": example, "prediction": prediction}, ensure_ascii=False) + "\n")
    if snapshot.state:
        (folder / "state").mkdir()
        _write_json(folder / "state" / "trainer.json", snapshot.state.trainer)
        save_file(snapshot.state.optimizer, folder / "state" / "optimizer.safetensors")
        for name in ("weights", "adapter"):
            if (tensors := getattr(snapshot.state, name)) is not None:
                save_file(tensors, folder / "state" / f"{name}.safetensors")


def below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, named without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Hash every file of `folder` and write the manifest that makes it whole. `facts` are kept beside the hashes."""
    files = {str(path.relative_to(folder)): _fingerprint(path) for path in _files(folder)}
    for name in files:
        _force(folder / name)  # or else the manifest may outlive them when the power goes
    staged = folder / f".{MANIFEST}.{os.getpid()}"
    _write_json(staged, {"format": _FORMAT, "files": files, **facts})
    _force(staged)
    staged.replace(folder / MANIFEST)


def _force(path: Path) -> None:
    """Return when the file is on the disk itself."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and MANIFEST not in path.name)


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a whole checkpoint. Raises CheckpointError when there is none or it cannot be read."""
    path = folder / MANIFEST
    if not path.is_file():
        what = "was not written to its end (it has no manifest.json)" if folder.is_dir() else "does not exist"
        raise CheckpointError(f"checkpoint {folder} {what}. Take an earlier one.")
    try:
        with _from_the_disk(folder, MANIFEST):
            text = path.read_text(encoding="utf-8")
        manifest = json.loads(text)
        if manifest["format"] != _FORMAT:
            raise CheckpointError(f"checkpoint {folder} has format {manifest['format']}; this version reads {_FORMAT}.")
        for entry in manifest["files"].values():
            _ = entry["size"], entry["sha256"]
        return dict(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"checkpoint {folder} has a damaged manifest.json. Take an earlier one.") from error


@contextmanager
def _from_the_disk(folder: Path, name: str) -> Iterator[None]:
    """Raise CheckpointError for a sector that cannot be read. Rights or a server that is away are another matter."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        why = f"{name} cannot be read: {error.strerror}"
        raise CheckpointError(f"checkpoint {folder}: {why}. Take an earlier one.") from error


def verify(folder: Path) -> dict[str, Any]:
    """Check every file against the manifest and return it. Raises CheckpointError naming the first bad file."""
    manifest = read_manifest(folder)
    for name, expected in manifest["files"].items():
        path = folder / name
        if path.suffix in _CODE_SUFFIXES:
            raise CheckpointError(f"checkpoint {folder} holds {name}: only safetensors and JSON are read.")
        if not path.is_file():
            raise CheckpointError(f"checkpoint {folder} lacks {name}. Take an earlier one.")
        if path.stat().st_size != expected["size"]:
            found = path.stat().st_size
            raise CheckpointError(f"checkpoint {folder}: {name} has {found} bytes and should have {expected['size']}.")
        with _from_the_disk(folder, name):
            found = _fingerprint(path)["sha256"]
        if found != expected["sha256"]:
            raise CheckpointError(f"checkpoint {folder}: {name} was changed after it was written (sha256 differs).")
    return manifest


def load(folder: Path) -> Loaded:
    """The model of a checkpoint, verified. Raises CheckpointError, or PluginError when its plugin is not installed."""
    from safetensors import SafetensorError

    verify(folder)
    try:
        run = check(json.loads((folder / "run.json").read_text(encoding="utf-8")), source=str(folder / "run.json"))
        parts = load_parts(run, folder)
        return Loaded(folder, run, parts, _model(parts, folder))
    except RunError as error:
        raise CheckpointError(f"checkpoint {folder} was made by another version: {error}") from error
    except (SafetensorError, ValueError, KeyError, RuntimeError, OSError) as error:
        raise CheckpointError(f"checkpoint {folder} cannot be read: {type(error).__name__}: {error}") from error


def load_parts(run: Run, folder: Path) -> Parts:
    """The components of `run` with what was fitted into `folder`."""
    parts = build(run)
    parts.encoder.load(folder / "encoder")
    parts.head.load(folder / "head")
    return parts


def _model(parts: Parts, folder: Path) -> Model:
    from heliostat.model import build_model

    model = build_model(parts.encoder, parts.head)
    parts.encoder.load_weights(model.encoder, folder / "encoder")
    model.head.load_state_dict(read_tensors(folder / "head" / "model.safetensors"))
    return model


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors file."""
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def load_state(folder: Path) -> TrainingState:
    """Where training stood. Raises CheckpointError for a checkpoint that can only predict."""
    state = folder / "state"
    if not (state / "trainer.json").is_file():
        raise CheckpointError(f"checkpoint {folder} holds no training state: it can predict and not continue.")
    more = {name: state / f"{name}.safetensors" for name in ("weights", "adapter")}
    return TrainingState(
        trainer=json.loads((state / "trainer.json").read_text(encoding="utf-8")),
        optimizer=read_tensors(state / "optimizer.safetensors"),
        **{name: read_tensors(path) if path.exists() else None for name, path in more.items()},
    )


def golden(folder: Path) -> list[tuple[Row, Row]]:
    """The sample records of a checkpoint with its answers to them."""
    rows = [json.loads(line) for line in (folder / "golden.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(row["example"], row["prediction"]) for row in rows]


def step_folder(checkpoints: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` updates."""
    return checkpoints / f"step-{step:08d}"


def newest(checkpoints: Path, *, at_most: int | None = None) -> Path | None:
    """The newest checkpoint whose every hash holds, or None. Damaged and unfinished ones are passed over.

    `at_most` names a step: newer ones are taken only where none is left up to there.
    """
    folders = sorted(checkpoints.glob("step-*"), reverse=True)
    if at_most is not None:
        limit = step_folder(checkpoints, at_most)
        folders = [*(each for each in folders if each <= limit), *(each for each in folders if each > limit)]
    for folder in folders:
        try:
            verify(folder)
        except CheckpointError:
            continue
        return folder
    return None


def collect(checkpoints: Path, *, keep: int, best: int | None, needed: Collection[int] = ()) -> None:
    """Remove all checkpoints but the newest `keep` whole ones, the one of step `best` and those of steps `needed`.

    Unfinished older ones go, too.
    """
    folders = sorted(checkpoints.glob("step-*"))
    whole = [folder for folder in folders if (folder / MANIFEST).is_file()]
    kept = set(whole[-keep:])
    kept |= {step_folder(checkpoints, step) for step in (best, *needed) if step is not None}
    for folder in folders:
        if folder not in kept and (not whole or folder < whole[-1]):
            shutil.rmtree(folder, ignore_errors=True)
