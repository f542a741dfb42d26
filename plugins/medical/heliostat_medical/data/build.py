"""Make `diagnoses.parquet` again: `python -m heliostat_medical.data.build`.

The same archive gives the same rows in the same order, so that splits by hash and every figure stay as they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq

from heliostat.data.wheels import member

PACKAGE = "simple-icd-10-cm==1.5.0"
MEMBER = "simple_icd_10_cm/data/icd10c-tabular-April-1-2026.xml"
SHA256 = "f161f8182aff3ce3a2a78e202f8259c08eaee2c670a9e45b0072445c52302935"
TARGET = Path(__file__).with_name("diagnoses.parquet")

COLUMNS = ("text", "chapter", "section", "category", "code", "kind")
KINDS = {"desc": "title", "inclusionTerm/note": "inclusion", "includes/note": "includes"}


def entries(root: ElementTree.Element) -> Iterator[tuple[str, ...]]:
    """Every title, inclusion term and `includes` note of the code set, with its place in the tree."""
    for chapter in root.iterfind("chapter"):
        for section in chapter.iterfind("section"):
            for category in section.iterfind("diag"):
                place = (named(chapter), named(section), f"{category.findtext('name')} {category.findtext('desc')}")
                for diagnosis in category.iter("diag"):
                    for path, kind in KINDS.items():
                        for text in diagnosis.iterfind(path):
                            yield (text.text or "", *place, diagnosis.findtext("name") or "", kind)


def named(element: ElementTree.Element) -> str:
    """`E08-E13 Diabetes mellitus` from `Diabetes mellitus (E08-E13)`."""
    title, _, codes = (element.findtext("desc") or "").strip().removesuffix(")").rpartition("(")
    return f"{codes} {' '.join(title.split())}"


def unique(rows: Iterator[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """The first row of each text, whatever its case; white space made one space."""
    seen = set()
    for text, *place in rows:
        clean = " ".join(text.split())
        if clean and clean.lower() not in seen:
            seen.add(clean.lower())
            yield (clean, *place)


def write(rows: list[tuple[str, ...]], path: Path) -> None:
    """One zstd file in row groups of 4096, so that a part of it can be read alone."""
    table = pa.table({name: [row[place] for row in rows] for place, name in enumerate(COLUMNS)})
    pq.write_table(table, path, compression="zstd", compression_level=19, row_group_size=4096, store_schema=False)


def main() -> None:
    rows = list(unique(entries(ElementTree.fromstring(member(PACKAGE, MEMBER, SHA256)))))
    write(rows, TARGET)
    counts = [len({row[place] for row in rows}) for place in (1, 2, 3)]
    print(f"{TARGET.name}: {len(rows)} texts, {counts} chapters, sections, categories, {TARGET.stat().st_size} bytes")
    print(f"sha256 {hashlib.sha256(TARGET.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
