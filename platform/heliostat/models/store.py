"""The model store on a local (or shared) disk.

home()/models/<name>/
├── aliases.json            {"champion": 3}
└── versions/3/
    ├── checkpoint/         what predicting needs: verified, read-only
    ├── report/             the evaluation
    ├── README.md           the model card
    └── version.json        where it came from; written last, so a version that has one is whole
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata as distributions
from pathlib import Path
from typing import Any

from heliostat.component import closest
from heliostat.errors import StoreError
from heliostat.home import home
from heliostat.lineage import fingerprint
from heliostat.lineage import read as read_lineage
from heliostat.models import files
from heliostat.models.card import write_card
from heliostat.models.chain import parent_of
from heliostat.models.version import ModelVersion, Reference, check_name, read_scores

_COMPLETE = "version.json"

Versions = list[ModelVersion]
Numbers = list[int]
Names = list[str]


class ModelStore:
    """Model versions by name. Every method reads the disk anew, so that many processes may share one store."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else home() / "models"

    def __repr__(self) -> str:
        return f"ModelStore({str(self.root)!r})"

    def add(
        self,
        name: str,
        checkpoint: Path,
        *,
        run_id: str,
        data_key: str,
        scores: Mapping[str, Any],
        baselines: Mapping[str, Mapping[str, Any]] | None = None,
        parent: str | None = None,
        report: Path | None = None,
    ) -> ModelVersion:
        """Store a checkpoint as the next version of `name`, without its training state.

        `scores` and those of each baseline are numbers, or values with `value`, `low` and `high`. `report` is the
        report's folder or a file. Safe for many processes at once. Raises StoreError for a name that may not be a path,
        CheckpointError for a damaged checkpoint; then nothing is stored.
        """
        metadata = {
            "run_id": run_id,
            "data_key": data_key,
            "scores": {key: score.dump() for key, score in read_scores(scores).items()},
            "baselines": {
                address: {key: score.dump() for key, score in read_scores(each).items()}
                for address, each in (baselines or {}).items()
            },
            "parent": parent,
        }
        number, folder = self._next(check_name(name, "model name"))
        try:
            return self._fill(ModelVersion(name, number, folder / "checkpoint", metadata), checkpoint, report)
        except BaseException:  # whatever it was, half a version is of no use to anybody
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _next(self, name: str) -> tuple[int, Path]:
        """Take the next number: only one process can make a folder."""
        versions = self.root / name / "versions"
        versions.mkdir(parents=True, exist_ok=True)
        number = max((int(path.name) for path in versions.iterdir() if path.name.isdecimal()), default=0) + 1
        while True:
            try:
                (versions / str(number)).mkdir()
                return number, versions / str(number)
            except FileExistsError:
                number += 1

    def _fill(self, version: ModelVersion, checkpoint: Path, report: Path | None) -> ModelVersion:
        folder = version.folder.parent
        try:
            files.copy_checkpoint(checkpoint, version.folder, link=True)
            lineage = read_lineage(version.folder)
            lineage[-1] |= {"address": str(version), "sha256": fingerprint(version.folder)}
            if report is not None:
                files.copy_report(report, folder / "report")
            version.metadata.update(
                name=version.name,
                version=version.version,
                run=json.loads((version.folder / "run.json").read_text(encoding="utf-8")),
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                num_parameters=files.count_numbers(version.folder),
                size_bytes=sum(path.stat().st_size for path in version.folder.rglob("*") if path.is_file()),
                heliostat=distributions.version("heliostat"),
                lineage=lineage,
                parent=version.metadata["parent"] or parent_of(lineage),
            )
            write_card(version)
            files.make_read_only(folder)
            files.write_json(folder / _COMPLETE, version.metadata, mode=0o444)
        except OSError as error:
            raise StoreError(f"{version} could not be stored in {self.root}: {error.strerror or error}.") from error
        return version

    def resolve(self, reference: str) -> ModelVersion:
        """The version at `name@alias`, `name:3`, or `name` for the newest. Raises StoreError listing what there is."""
        name, alias, number = Reference.parse(reference)
        numbers = self._numbers(name)
        aliases = self._aliases(name)
        if alias is not None:
            if alias not in aliases:
                raise StoreError(_missing(f"alias '{alias}' of the model '{name}'", alias, sorted(aliases)))
            number = aliases[alias]
        elif number is None:
            number = numbers[-1]
        if number not in numbers:
            raise StoreError(f"there is no version {number} of {name}. There are: {_spans(numbers)}.")
        return self._read(name, number, aliases)

    def list(self, name: str | None = None) -> Versions:
        """Every version (of one model), by name and number. Raises StoreError when that model does not exist."""
        return [
            self._read(each, number, aliases)
            for each in ([check_name(name, "model name")] if name is not None else self._names())
            for aliases in [self._aliases(each)]
            for number in self._numbers(each)
        ]

    def promote(self, name: str, version: int, alias: str) -> ModelVersion:
        """Point `alias` at a version, in one step: a reader sees the old or the new one. Raises StoreError."""
        check_name(alias, "alias")
        self.resolve(f"{name}:{version}")
        folder = self.root / name
        with files.locked(folder):
            files.write_json(folder / "aliases.json", {**self._aliases(name), alias: version})
        return self.resolve(f"{name}:{version}")

    def export(self, reference: str, out: Path) -> Path:
        """Copy a version to the folder `out`, to be loaded by `heliostat.load(out)` or, its encoder, by transformers.

        Raises StoreError when `out` holds something, CheckpointError when the version is damaged.
        """
        version = self.resolve(reference)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise StoreError(f"{out} is there already and not empty. Export to a new folder.")
        staged = out.absolute().with_name(f".{out.absolute().name}.{os.getpid()}")
        shutil.rmtree(staged, ignore_errors=True)
        try:
            files.copy_checkpoint(version.folder, staged, link=False)
            shutil.copyfile(version.card, staged / "README.md")
            staged.replace(out.absolute())
        except OSError as error:
            raise StoreError(f"{version} could not be exported to {out}: {error.strerror or error}.") from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return out

    def _names(self) -> Names:
        """Models with at least one whole version."""
        return sorted({path.parts[-4] for path in self.root.glob(f"*/versions/*/{_COMPLETE}")})

    def _numbers(self, name: str) -> Numbers:
        """The whole versions of a model, oldest first. Raises StoreError when there is none."""
        folders = (self.root / name / "versions").glob(f"*/{_COMPLETE}")
        numbers = sorted(int(path.parent.name) for path in folders if path.parent.name.isdecimal())
        if not numbers:
            raise StoreError(_missing(f"model '{name}' in {self.root}", name, self._names()))
        return numbers

    def _aliases(self, name: str) -> dict[str, int]:
        path = self.root / name / "aliases.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
        except (ValueError, TypeError) as error:
            raise StoreError(f'{path} is damaged. Write it anew as {{"champion": <version>}}.') from error

    def _read(self, name: str, number: int, aliases: Mapping[str, int]) -> ModelVersion:
        folder = self.root / name / "versions" / str(number)
        try:
            metadata = dict(json.loads((folder / _COMPLETE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(f"{name}:{number} is damaged: {folder / _COMPLETE} cannot be read.") from error
        mine = tuple(sorted(alias for alias, version in aliases.items() if version == number))
        return ModelVersion(name, number, folder / "checkpoint", metadata, mine)


def _missing(what: str, word: str, there: Sequence[str]) -> str:
    guess = closest(word, [*there])
    hint = f"Did you mean '{guess}'? " if guess else ""
    return f"there is no {what}. {hint}There {'are: ' + ', '.join(there) if there else 'is none yet'}."


def _spans(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) if len(numbers) <= 10 else f"{numbers[0]} to {numbers[-1]}"
