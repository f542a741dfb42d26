"""Where raw records come from: files, globs, folders, installed packages, fetched archives, data sets of the hub."""

from __future__ import annotations

import glob
import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from heliostat.component import Row, closest
from heliostat.data.fingerprint import sha256_of
from heliostat.data.formats import SUFFIXES, Options, SourceFile, columns_of, format_of, parse_options, rows_of
from heliostat.data.packed import SUFFIXES as PACKED
from heliostat.data.rejects import Place
from heliostat.errors import DataError, RejectedRecord

Records = Iterator[tuple[Place, Row | RejectedRecord]]
"""Raw records with their places; one that cannot be read stands there as the error that says why."""

_SCHEME = re.compile(r"^([a-z][a-z0-9]+):(.*)$", re.DOTALL)
_FRAGMENT = re.compile(r"^(.*)#([a-z0-9_]+=.*)$", re.DOTALL)


class Source(Protocol):
    """Raw records of one origin."""

    @property
    def size_bytes(self) -> int:
        """Bytes of its files."""
        ...

    def columns(self) -> dict[str, str]:
        """Column names with what they hold: `string`, `int64`, `double`, or another of Arrow's type names."""
        ...

    def rows(self) -> Records:
        """The records in order. Missing and blank cells, and NaN, are None; every record has every column."""
        ...

    def fingerprint(self) -> str:
        """A hash of the content and of how it is read; it does not depend on where the files lie."""
        ...


class Reference(NamedTuple):
    """The parts of a source as a run file names it: `scheme:address#options`."""

    scheme: str
    address: str
    options: Options


def parse_source(source: str) -> Reference:
    """Take a source's name apart. Raises DataError for an unknown scheme or option."""
    fragment = _FRAGMENT.match(source)
    rest, options = (fragment[1], fragment[2]) if fragment else (source, "")
    scheme = _SCHEME.match(rest)
    if not scheme:
        return Reference("file", rest, parse_options(options, source))
    if scheme[1] not in ("file", "package", "pypi", "hf"):
        raise DataError(
            f"data.source={source}: no such kind of source as '{scheme[1]}:'. "
            "There are: a path, a glob or a folder; package:, pypi: and hf:."
        )
    address = scheme[2].removeprefix("//") if scheme[1] == "file" else scheme[2]
    return Reference(scheme[1], address, parse_options(options, source))


def open_source(source: str, base: Path | None = None) -> Source:
    """The source that a run names in `data.source`; a relative path counts from `base`, or else the current folder.

    Raises DataError when there is no such file, with the names that are near; nothing is fetched.
    """
    scheme, address, options = parse_source(source)
    if scheme == "hf":
        from heliostat.data.hub import HubSource

        return HubSource(source, address, options, base or Path.cwd())
    if scheme == "package":
        paths = _in_package(address, source)
    elif scheme == "pypi":
        from heliostat.data.archives import members

        paths = members(source, address, options.sha256)
    else:
        paths = _on_disk(address, base or Path.cwd(), source)
    return FileSource(source, _as_files(paths, options, source), options)


@dataclass(frozen=True)
class FileSource:
    """Files that are read one after the other."""

    source: str
    files: tuple[SourceFile, ...]
    options: Options

    @property
    def size_bytes(self) -> int:
        """Bytes of the files."""
        return sum(file.path.stat().st_size for file in self.files)

    def columns(self) -> dict[str, str]:
        """The columns of all files; a type holds in every file that has the column."""
        return dict(self._columns)

    @cached_property
    def _columns(self) -> dict[str, str]:
        kinds: dict[str, str] = {}
        for file in self.files:
            for name, kind in columns_of(file, self.options).items():
                kinds[name] = _joined(kinds.get(name, "null"), kind)
        if self.options.file_column:
            kinds[self.options.file_column] = "string"
        return kinds

    def rows(self) -> Records:
        """The records, file after file. Raises DataError when a file cannot be read, or when there is no record."""
        empty = True
        for file in self.files:
            for record in self.rows_in(file):
                empty = False
                yield record
        if empty:
            raise DataError(f"data.source={self.source}: has no records, only columns ({', '.join(self._columns)}).")

    def rows_in(self, file: SourceFile) -> Records:
        """The records of one of the files, with the columns of all."""
        added = {self.options.file_column: file.name.partition(".")[0]} if self.options.file_column else {}
        for number, row in rows_of(file, self.options, self._columns):
            yield Place(file.name, number), row if isinstance(row, RejectedRecord) else self._whole(row, added)

    def _whole(self, row: Row, added: Row) -> Row:
        return {name: said(row.get(name)) for name in self._columns} | added

    def fingerprint(self) -> str:
        """The hash of the files' hashes, formats and options."""
        read = self.options.model_dump(mode="json", exclude={"sha256"})
        named = [file.name for file in self.files] if self.options.file_column else []
        content = [[file.format, sha256_of(file.path)] for file in self.files]
        return hashlib.sha256(json.dumps([read, named, content], sort_keys=True).encode()).hexdigest()


def said(value: Any) -> Any:
    """The value, or None for what says nothing: blank text and NaN."""
    if isinstance(value, str):
        return value if value and not value.isspace() else None
    return None if isinstance(value, float) and value != value else value


def _joined(first: str, second: str) -> str:
    if first == second or second == "null":
        return first
    if first == "null":
        return second
    return "double" if {first, second} == {"int64", "double"} else "string"


def _as_files(paths: list[Path], options: Options, source: str) -> tuple[SourceFile, ...]:
    """The files with their formats, named as shortly as tells them apart."""
    names = [path.name for path in paths]
    files = []
    for path, name in zip(paths, names, strict=True):
        format = format_of(path, options)
        if format is None:
            known = ", ".join(SUFFIXES)
            raise DataError(
                f"data.source={source}: the suffix of '{name}' tells no format; known are {known}. "
                "Say it: #format=csv (or tsv, jsonl, parquet, arrow, text, xml)."
            )
        for option, belongs in (("documents", "text"), ("records", "xml")):
            if getattr(options, option) and format != belongs:
                raise DataError(
                    f"data.source={source}: '{option}' has no effect on '{name}', which is {format}. Drop it."
                )
        files.append(SourceFile(path, name if names.count(name) == 1 else str(path), format))
    return tuple(files)


def _on_disk(address: str, base: Path, source: str) -> list[Path]:
    """The files that a path, a folder or a glob stands for."""
    path = base / Path(address).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and _is_data(file.relative_to(path)))
        tables = [file for file in files if ".txt" not in file.suffixes]  # beside tables a text explains them
        found = tables or files
        if not found:
            raise DataError(f"data.source={source}: the folder holds no file that ends in {', '.join(SUFFIXES)}.")
        return found
    if glob.has_magic(address):
        matches = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207  (an absolute pattern)
        found = sorted(match for match in matches if match.is_file())
        if not found:
            raise DataError(f"data.source={source}: no file fits this pattern.{_near(path)}")
        return found
    raise DataError(f"data.source={source}: there is no such file.{_near(path)}")


def _is_data(path: Path) -> bool:
    """Whether a file of a folder is meant by it: no hidden one, no backup, none that somebody is still writing."""
    suffixes = path.suffixes[:-1] if path.suffix in PACKED else path.suffixes
    return bool(suffixes) and suffixes[-1] in SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _near(path: Path) -> str:
    """What lies where the file was looked for, as a sentence."""
    folder = path.parent
    while glob.has_magic(folder.name):
        folder = folder.parent
    if not folder.is_dir():
        return f" There is no folder {folder} either."
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    guess = closest(path.name, names)
    if guess:
        return f" Did you mean '{folder / guess}'?"
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f" {folder} holds {shown}." if names else f" {folder} is empty."


def _in_package(address: str, source: str) -> list[Path]:
    """Files inside an installed package, which is found and not imported."""
    package, _, inside = address.partition("/")
    try:
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    if not inside or "." in package:
        raise DataError(f"data.source={source}: takes the form package:<package>/<path inside it>.")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise DataError(
            f"data.source={source}: no installed package is named '{package}'. Install the plugin that carries "
            f"the data, as in 'pip install -e plugins/<plugin>'."
        )
    return _on_disk(inside, Path(folders[0]), source)
