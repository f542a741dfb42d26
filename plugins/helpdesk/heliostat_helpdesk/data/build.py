"""Make `paragraphs.parquet` again: `python -m heliostat_helpdesk.data.build` (needs apt-get and dpkg-deb).

The same package gives the same rows in the same order, so that splits by hash and every figure stay as they were.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

PACKAGE = "libreoffice-help-en-us=4:7.4.7-1+deb12u14"
SHA256 = "8faa840285734d6cfe1ed25537b48f07e74bd6412e3917bf8e5f8a653f7b3712"
TARGET = Path(__file__).with_name("paragraphs.parquet")

PRODUCTS = {
    "sbasic": "basic", "scalc": "calc", "schart": "chart", "sdatabase": "base", "sdraw": "draw", "simpress": "impress",
    "smath": "math", "swriter": "writer",
}  # fmt: skip
"""The folder of a page -> its product. What lies in `shared` belongs to all of them."""
HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
FEWEST_WORDS, MOST_CHARACTERS = 4, 2000


class Block(NamedTuple):
    """A paragraph, heading or cell of a page."""

    kind: str
    text: str


class Page(HTMLParser):
    """The blocks of one help page that have an id and are no code, in order, and the page's title."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self.title = ""
        self.open: tuple[str, bool] | None = None  # the tag, and whether its text is wanted
        self.parts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in HEADINGS | {"p", "title"}:
            self.end()
            self.open = (tag, bool(given.get("id")) and "code" not in str(given.get("class")))
        elif tag == "br":
            self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if self.open and tag in {self.open[0], "div", "td", "li", "table"}:
            self.end()

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    def end(self) -> None:
        text = " ".join("".join(self.parts).split())
        if self.open and self.open[0] == "title":
            self.title = text
        elif self.open and self.open[1]:
            self.blocks.append(Block("heading" if self.open[0] in HEADINGS else "paragraph", text))
        self.open, self.parts = None, []


def unpack(folder: Path) -> Path:
    """The pinned package, checked and unpacked. Nothing of it is installed or run."""
    subprocess.run(["apt-get", "download", "-qq", PACKAGE], cwd=folder, check=True)
    deb = next(folder.glob("*.deb"))
    found = hashlib.sha256(deb.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{PACKAGE} must have the sha256 {SHA256}; found {found}.")
    subprocess.run(["dpkg-deb", "-x", deb, folder / "root"], check=True)
    return folder / "root" / "usr/share/libreoffice/help/en-US/text"


def blocks(root: Path) -> Iterator[dict[str, str]]:
    """Every text of four words or more, with its page; `product` is empty for the pages of all products."""
    for path in sorted(root.rglob("*.html")):
        page, place = Page(), path.relative_to(root)
        page.feed(path.read_text(encoding="utf-8"))
        page.end()
        about = {"product": PRODUCTS.get(place.parts[0], ""), "page": place.as_posix(), "title": page.title}
        for kind, text in page.blocks:
            if len(text.split()) >= FEWEST_WORDS and len(text) <= MOST_CHARACTERS and re.search(r"[^\W\d_]{2}", text):
                yield {**about, "kind": kind, "text": text}


def unique(rows: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """The first row of each text, whatever its case; none of a text that stands in the help of two products."""
    products = defaultdict(set)
    for row in rows:
        products[row["text"].casefold()].add(row["product"])
    for row in rows:
        # `pop` leaves nothing behind: what comes second is left out.
        if row["product"] and products.pop(row["text"].casefold(), set()) == {row["product"]}:
            yield row


def write(rows: list[dict[str, str]], path: Path) -> None:
    """One zstd file in row groups of 4096, so that a part of it can be read alone."""
    table = pa.Table.from_pylist(rows)
    plain = ["product", "page", "title", "kind"]
    options = {"compression_level": 22, "row_group_size": 4096, "use_dictionary": plain, "store_schema": False}
    pq.write_table(table, path, compression="zstd", **options)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = list(blocks(unpack(Path(folder)) if len(sys.argv) < 2 else Path(sys.argv[1])))
    rows = list(unique(found))
    write(rows, TARGET)
    print(Counter(row["product"] for row in rows), Counter(row["kind"] for row in rows))
    print(f"{TARGET.name}: {len(rows)} of {len(found)} texts, {len({row['page'] for row in rows})} pages")
    print(f"{TARGET.stat().st_size} bytes, sha256 {hashlib.sha256(TARGET.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
