"""Make `pairs.parquet` again: `python -m heliostat_translation.data.build` (needs apt-get and dpkg-deb).

The same packages give the same rows in the same order, so that splits and every figure stay as they were.
"""

from __future__ import annotations

import gettext
import hashlib
import io
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from heliostat.data.wheels import checked, wheel

VERSION = "4:7.4.7-1+deb12u14"
SHA256 = {
    "libreoffice-help-en-us": "8faa840285734d6cfe1ed25537b48f07e74bd6412e3917bf8e5f8a653f7b3712",
    "libreoffice-help-de": "00490b63c509ac96f7f212d6a6e40452d3e0d1f97ccf4b824dd5ec4c01e8277f",
    "libreoffice-help-fr": "c796530d3e95af1ea4d054076682efc8aad2b569ae9513f3d4a776b2df3fd206",
    "libreoffice-help-zh-cn": "db867cdece4c2f9c7eebe65e519c6cf386fdcf49d6e061db3dffec893b3e1dee",
    "libreoffice-l10n-de": "aee22c8e3b3c0431f6e1b0bc66f757ba36c860e2651a05eb050fde4897f06548",
    "libreoffice-l10n-fr": "111da5e1b8379dc58a127ef76ef85e2b6819da5cb2c5fe73d13b25a0437f988c",
    "libreoffice-l10n-zh-cn": "06b2800923811a11ddadc9e1e09ef8bda2a89ba118470403b2f6a897152e0809",
}
HELP = {"de": "de", "fr": "fr", "zh": "zh-CN"}
INTERFACE = {"de": "de", "fr": "fr", "zh": "zh_CN"}
WEB = {"de": "de", "fr": "fr", "zh": "zh_Hans"}
OUTSIDE = "django==5.2.7"
OUTSIDE_SHA256 = "59a13a6515f787dec9d97a0438cd2efac78c8aca1c80025244b0fe507fe0754b"
TARGET = Path(__file__).with_name("pairs.parquet")
OUTSIDE_TARGET = Path(__file__).with_name("outside.parquet")

BLOCKS = {"p", "h1", "h2", "h3", "h4", "h5", "h6"}
WORDS_OF_A_TEXT = 4
"""English blocks with fewer words (headings, cells) are phrases: they are trained on and never tested on."""


class Block(NamedTuple):
    """A paragraph, heading or cell of a help page."""

    id: str
    is_code: bool
    text: str


class Page(HTMLParser):
    """The blocks of one help page that have an id, in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self.open: tuple[str, str, bool] | None = None
        self.parts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in BLOCKS:
            self.end()
            if given.get("id"):
                self.open = (tag, str(given["id"]), "code" in str(given.get("class")))
        elif tag == "br":
            self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if self.open and (tag == self.open[0] or tag in {"div", "td", "li", "table"}):
            self.end()

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    def end(self) -> None:
        if self.open:
            self.blocks.append(Block(self.open[1], self.open[2], " ".join("".join(self.parts).split())))
        self.open, self.parts = None, []


def blocks(path: Path) -> list[Block]:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.end()
    return page.blocks


def unpack(folder: Path) -> Path:
    """All packages, checked and unpacked together. Nothing of them is installed or run."""
    for name, sha256 in SHA256.items():
        subprocess.run(["apt-get", "download", "-qq", f"{name}={VERSION}"], cwd=folder, check=True)
        deb = next(folder.glob(f"{name}_*.deb"))
        found = hashlib.sha256(deb.read_bytes()).hexdigest()
        if found != sha256:
            raise SystemExit(f"{name} {VERSION} must have the sha256 {sha256}; found {found}.")
        subprocess.run(["dpkg-deb", "-x", deb, folder / "root"], check=True)
    return folder / "root" / "usr"


def aligned(english: list[Block], other: list[Block]) -> dict[int, str]:
    """The text of the other page for the number of each English block, matched by order and id."""
    ids, others = ([block.id for block in side] for side in (english, other))
    matches = SequenceMatcher(None, ids, others, autojunk=False).get_matching_blocks()
    return {m.a + k: other[m.b + k].text for m in matches for k in range(m.size)}


def split_of(file: str) -> str:
    """A tenth of the files is tested on and a twentieth is for choices, by the sha256 of their names."""
    share = int(hashlib.sha256(file.encode()).hexdigest()[:8], 16) / 2**32
    return "test" if share < 0.1 else "valid" if share < 0.15 else "train"


def help_rows(usr: Path) -> Iterator[dict[str, str | None]]:
    """One row an English text, where it first stands, with its translations."""
    root, seen = usr / "share/libreoffice/help", set[str]()
    for path in sorted((root / "en-US" / "text").rglob("*.html")):
        file = path.relative_to(root / "en-US").as_posix()
        english = blocks(path)
        others = {code: aligned(english, blocks(root / name / file)) for code, name in HELP.items()}
        for place, block in enumerate(english):
            key = block.text.casefold()
            if block.is_code or key in seen or not is_text(block.text):
                continue
            seen.add(key)
            kind = "text" if len(block.text.split()) >= WORDS_OF_A_TEXT else "phrase"
            if kind == "text" or split_of(file) == "train":
                texts = {code: said(block.text, other.get(place), code) for code, other in others.items()}
                yield {"file": file, "id": block.id, "kind": kind, "split": split_of(file), "en": block.text, **texts}


def interface_rows(usr: Path, known: set[str]) -> Iterator[dict[str, str | None]]:
    """One row a string of the program, to train on; those that stand in the help are left out."""
    root, seen = usr / "lib/libreoffice/program/resource", set(known)
    for path in sorted((root / "de" / "LC_MESSAGES").glob("*.mo")):
        catalogs = {code: catalog(root / name / "LC_MESSAGES" / path.name) for code, name in INTERFACE.items()}
        for key in catalogs["de"]:
            english = " ".join(key.rpartition("\x04")[2].split())
            plain = english.replace("~", "").casefold()
            if plain in seen or not is_text(english):
                continue
            seen.add(plain)
            texts = {code: said(english, texts.get(key), code) for code, texts in catalogs.items()}
            yield {"file": f"ui/{path.stem}", "id": None, "kind": "ui", "split": "train", "en": english, **texts}


def catalog(path: Path) -> dict[str, str]:
    """The strings of a catalogue, by their English with its context; plural forms are left out."""
    if not path.exists():
        return {}
    with path.open("rb") as file:
        entries = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
    return {key: value for key, value in entries.items() if isinstance(key, str) and key}


def outside_rows() -> Iterator[dict[str, str | None]]:
    """Messages of another program, four English words or more, to see how a model fares outside its domain."""
    with wheel(OUTSIDE) as path:
        checked(path.read_bytes(), OUTSIDE_SHA256, OUTSIDE)
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith("locale/de/LC_MESSAGES/django.mo"))
            seen: set[str] = set()
            for name in names:
                texts = {code: wheel_catalog(archive, name.replace("/de/", f"/{as_}/")) for code, as_ in WEB.items()}
                for key in texts["de"]:
                    english = " ".join(key.rpartition("\x04")[2].split())
                    if english in seen or len(english.split()) < WORDS_OF_A_TEXT or not is_text(english):
                        continue
                    seen.add(english)
                    said_in = {code: said(english, texts[code].get(key), code) for code in WEB}
                    if any(said_in.values()):
                        yield {"file": name, "kind": "text", "split": "test", "en": english, **said_in}


def wheel_catalog(archive: zipfile.ZipFile, name: str) -> dict[str, str]:
    entries = gettext.GNUTranslations(io.BytesIO(archive.read(name)))._catalog  # type: ignore[attr-defined]
    return {key: value for key, value in entries.items() if isinstance(key, str) and key}


def is_text(text: str) -> bool:
    return bool(re.search(r"[^\W\d_]{2}", text)) and len(text) <= 2000


def said(english: str, text: str | None, code: str) -> str | None:
    """The translation, or None where there is none: missing, equal to the English, or Chinese without Chinese."""
    text = " ".join(text.split()) if text else ""
    if not text or text == english or (code == "zh" and not re.search(r"[\u4e00-\u9fff]", text)):
        return None
    return text


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        usr = unpack(Path(folder)) if len(sys.argv) < 2 else Path(sys.argv[1])
        rows = list(help_rows(usr))
        rows += interface_rows(usr, {str(row["en"]).casefold() for row in rows})
    rows = [row for row in rows if any(row[code] for code in HELP)]
    write(rows, TARGET)
    write(list(outside_rows()), OUTSIDE_TARGET)


def write(rows: list[dict[str, str | None]], path: Path) -> None:
    table = pa.table({name: pa.array([row[name] for row in rows], pa.string()) for name in rows[0]})
    plain = [name for name in ("file", "id", "kind", "split") if name in rows[0]]
    pq.write_table(table, path, compression="zstd", compression_level=22, row_group_size=2**17, use_dictionary=plain)
    for code in HELP:
        print(f"en-{code}:", dict(sorted(Counter((r["split"], r["kind"]) for r in rows if r[code]).items())))
    print(f"{path.name}: {table.num_rows} rows, {path.stat().st_size} bytes")
    print(f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
