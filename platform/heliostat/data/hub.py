"""Data sets of the hub (`hf:`), through the `datasets` library: a local folder, or an id that was fetched ahead."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from heliostat.data.fingerprint import sha256_of
from heliostat.data.formats import Options
from heliostat.data.rejects import Place
from heliostat.data.sources import Records, said
from heliostat.errors import DataError
from heliostat.home import home

_ROWS = 1000
_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[A-Za-z0-9._-]+)?$")


def _cache(address: str) -> Path:
    return home() / "archives" / "hub" / address.replace("/", "--")


def fetch(source: str, address: str) -> Path:
    """Download a data set (`owner/name`, or `owner/name@revision`) and keep it. Raises DataError when that fails.

    It gets its name when it is whole: of a fetch that was killed nothing counts.
    """
    if Path(address).expanduser().is_dir():
        return Path(address).expanduser()
    if not _ID.match(address):
        raise DataError(f"data.source={source}: neither a folder nor the id of a data set (owner/name).")
    if _cache(address).is_dir():
        return _cache(address)
    import datasets

    name, _, revision = address.partition("@")
    cache = _cache(address)
    staged = cache.with_name(f".{cache.name}.{secrets.token_hex(4)}")
    try:
        datasets.load_dataset(name, revision=revision or None).save_to_disk(staged)
        _publish(staged, cache)
    except Exception as error:
        raise DataError(
            f"data.source={source}: cannot be fetched ({type(error).__name__}: {error}). "
            "Check the id, the network and the room on the disk."
        ) from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return cache


def _publish(staged: Path, cache: Path) -> None:
    try:
        staged.rename(cache)
    except OSError:
        if not cache.is_dir():  # or else somebody was faster, and has the same
            raise


@dataclass(frozen=True)
class HubSource:
    """A data set in the form that `datasets` saves to disk. Class labels come as their names."""

    source: str
    address: str
    options: Options
    base: Path

    @cached_property
    def _folder(self) -> Path:
        local = self.base / Path(self.address).expanduser()
        folder = local if local.is_dir() else _cache(self.address)
        if not folder.is_dir():
            raise DataError(
                f"data.source={self.source}: no folder of this name, and no data set fetched under it. "
                "Mend the path, or fetch it first: heliostat data fetch RUN."
            )
        return folder

    @cached_property
    def _splits(self) -> dict[str, Any]:
        """Split name -> data set; the name is empty where there is only one."""
        import datasets

        try:
            loaded = datasets.load_from_disk(str(self._folder))
        except Exception as error:  # datasets raises what its readers raise
            raise DataError(
                f"data.source={self.source}: {self._folder} is no data set that `datasets` saved ({error})."
            ) from None
        splits = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
        wanted = self.options.split
        if wanted is not None and wanted not in splits:
            raise DataError(f"data.source={self.source}: has no split '{wanted}'; there are: {', '.join(splits)}.")
        return splits if wanted is None else {wanted: splits[wanted]}

    @property
    def size_bytes(self) -> int:
        """Bytes of its Arrow files."""
        return sum(path.stat().st_size for path in self._folder.rglob("*.arrow"))

    def columns(self) -> dict[str, str]:
        """The columns of its splits, and `split` where there are several."""
        kinds: dict[str, str] = {}
        for data in self._splits.values():
            named = dict.fromkeys(_class_names(data), "string")
            kinds |= dict(zip(data.column_names, map(str, data.features.arrow_schema.types), strict=True)) | named
        return kinds | ({"split": "string"} if len(self._splits) > 1 else {})

    def rows(self) -> Records:
        """The records, split after split."""
        names = self.columns()
        for split, data in self._splits.items():
            read = _class_names(data)
            added = (
                {"split": _SPLIT_NAMES.get(split, split)}
                if "split" in names and "split" not in data.column_names
                else {}
            )
            number = 0
            for batch in data.with_format(None).iter(batch_size=_ROWS):
                for values in zip(*batch.values(), strict=True):
                    number += 1
                    row = dict(zip(batch, values, strict=True)) | added
                    for name, name_of in read.items():
                        row[name] = name_of(row[name])
                    yield Place(split or self._folder.name, number), {name: said(row.get(name)) for name in names}

    def fingerprint(self) -> str:
        """The hash of its files' hashes and of the options."""
        files = [path for path in sorted(self._folder.rglob("*")) if path.suffix in (".arrow", ".json")]
        content = [[str(path.relative_to(self._folder)), sha256_of(path)] for path in files]
        read = self.options.model_dump(mode="json", exclude={"sha256"})
        return hashlib.sha256(json.dumps([read, content], sort_keys=True).encode()).hexdigest()


_SPLIT_NAMES = {"validation": "valid"}
"""The hub's name for a split -> ours, in the column `split` that we add."""


def _class_names(data: Any) -> dict[str, Callable[[Any], Any]]:
    """The columns that hold class numbers, each with what gives a number its name."""
    return {
        name: partial(_class_name, feature) for name, feature in data.features.items() if hasattr(feature, "int2str")
    }


def _class_name(feature: Any, value: int | None) -> str | None:
    return None if value is None or value < 0 else str(feature.int2str(value))
