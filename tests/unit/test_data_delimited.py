"""Text tables: quotes that were not meant as such, and numbers that would become others."""

from __future__ import annotations

from pathlib import Path

import pytest

from heliostat.component import Row
from heliostat.data.sources import open_source
from heliostat.errors import DataError, RejectedRecord


def read(folder: Path, lines: list[str], options: str = "", name: str = "a.tsv") -> list[Row | RejectedRecord]:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [row for _, row in open_source(f"{path}{options}").rows()]


def lost(rows: list[Row | RejectedRecord]) -> list[int]:
    return [row.num_records for row in rows if isinstance(row, RejectedRecord)]


def swapped(lines: list[str], is_text_last: bool) -> list[str]:
    return ["\t".join(line.split("\t")[::-1]) for line in lines] if is_text_last else lines


@pytest.mark.parametrize("is_text_last", [False, True])
def test_a_quote_that_is_never_closed_is_refused_with_its_line(tmp_path: Path, is_text_last: bool) -> None:
    lines = ["text\tlabel", *(f"text {number}\t1" for number in range(100))]
    lines[61] = '"Great, he said\t1'
    with pytest.raises(DataError, match=r"opens a cell on line 62 is never closed.*a.tsv#quote=none"):
        read(tmp_path, swapped(lines, is_text_last))
    assert len(read(tmp_path, swapped(lines, is_text_last), "#quote=none")) == 100


@pytest.mark.parametrize("is_text_last", [False, True])
@pytest.mark.parametrize("closing", ['"So", he said\t1', '"Great", he said\t1'])
def test_what_a_stray_quote_took_in_counts_as_rejected(tmp_path: Path, is_text_last: bool, closing: str) -> None:
    lines = ["text\tlabel", *(f"text {number}\t1" for number in range(100))]
    lines[61], lines[81] = '"Great, he said\t1', closing
    lines.insert(30, "")  # no record
    rows = read(tmp_path, swapped(lines, is_text_last))
    assert lost(rows) == [21]
    assert isinstance(rows[60], RejectedRecord)
    assert len(rows) == 80


def test_lines_of_a_ragged_row_count_each(tmp_path: Path) -> None:
    lines = ["text,label", "a,1", '"b', 'c",2,3', '"never', "mind", 'it"']
    rows = read(tmp_path, lines, name="a.csv")
    assert lost(rows) == [2, 3]
    assert "a quote is probably not closed" in str(rows[2])


def test_quotes_that_are_meant_stay(tmp_path: Path) -> None:
    lines = ["text,more", '"two', 'lines",x', '"a ""word""",""', '5" wide,"b', '""end"""  ', '"So" he said,y', "'tis,z"]
    assert read(tmp_path, lines, name="a.csv") == [
        {"text": "two\nlines", "more": "x"},
        {"text": 'a "word"', "more": None},
        {"text": '5" wide', "more": 'b\n"end"  '},
        {"text": "So he said", "more": "y"},
        {"text": "'tis", "more": "z"},
    ]


def test_long_ids_stay_what_they_are(tmp_path: Path) -> None:
    lines = [
        "id,short,mixed,far,share",
        "12345678901234567890,12345678901234567,12345678901234567,1e400,0.1234567890123456789",
        "12345678901234567891,1,1.5,1,12345.67",
    ]
    first = read(tmp_path, lines, name="a.csv")[0]
    assert open_source(str(tmp_path / "a.csv")).columns() == {
        "id": "string", "short": "int64", "mixed": "string", "far": "string", "share": "double",
    }  # fmt: skip
    assert first == {
        "id": "12345678901234567890",
        "short": 12345678901234567,
        "mixed": "12345678901234567",
        "far": "1e400",
        "share": 0.1234567890123456789,
    }


def test_long_ids_beside_fractions_of_another_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id\n12345678901234567\n")
    (tmp_path / "b.csv").write_text("id\n1.5\n")
    with pytest.raises(DataError, match=r"a.csv: the column 'id' holds whole numbers of more digits"):
        list(open_source(str(tmp_path)).rows())
