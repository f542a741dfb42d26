"""Sources: what is read from which form, and what is said about bad input."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from heliostat.component import Row
from heliostat.data.rejects import Place
from heliostat.data.sources import open_source
from heliostat.errors import DataError, RejectedRecord

ROWS = [{"text": "fits well", "stars": 5}, {"text": "too tight", "stars": 1}]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))


def read(source: Path | str) -> list[Row]:
    rows = [row for _, row in open_source(str(source)).rows()]
    assert not [row for row in rows if isinstance(row, RejectedRecord)]
    return rows  # type: ignore[return-value]


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_format(path: Path) -> Path:
    table = pa.Table.from_pylist(ROWS)
    if path.suffix == ".jsonl":
        return written(path, "".join(json.dumps(row) + "\n" for row in ROWS))
    if path.suffix in (".csv", ".tsv"):
        sign = "," if path.suffix == ".csv" else "\t"
        return written(path, f"text{sign}stars\nfits well{sign}5\ntoo tight{sign}1\n")
    if ".parquet" in path.suffixes:
        parquet.write_table(table, path, compression="brotli")
    elif path.suffix == ".arrow":
        with pa.ipc.new_stream(str(path), table.schema) as stream:
            stream.write_table(table)
    else:
        with pa.ipc.new_file(str(path), table.schema) as file:
            file.write_table(table)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "a.parquet.brotli", "a.arrow", "a.ipc"])
def test_every_format_gives_the_same_records(tmp_path: Path, name: str) -> None:
    source = open_source(str(write_format(tmp_path / name)))
    assert source.columns() == {"text": "string", "stars": "int64"}
    assert list(source.rows()) == [(Place(name, 1), ROWS[0]), (Place(name, 2), ROWS[1])]
    assert source.size_bytes == (tmp_path / name).stat().st_size


def test_folder_glob_and_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.csv", "a.csv"):
        write_format(tmp_path / name)
    written(tmp_path / "notes.txt", "not data")
    monkeypatch.chdir(tmp_path)
    assert [place for place, _ in open_source(str(tmp_path)).rows()] == [
        Place(name, row) for name in ("a.csv", "b.csv") for row in (1, 2)
    ]
    assert read("*.csv") == ROWS * 2
    assert read("a.csv") == ROWS


def test_files_of_a_glob_share_their_columns_and_types(tmp_path: Path) -> None:
    written(tmp_path / "a.csv", "text,n\nx,1\n")
    written(tmp_path / "b.csv", "text,n,more\ny,1.5,z\n")
    source = open_source(str(tmp_path / "*.csv#file_column=origin"))
    assert source.columns() == {"text": "string", "n": "double", "more": "string", "origin": "string"}
    assert [row for _, row in source.rows()] == [
        {"text": "x", "n": 1.0, "more": None, "origin": "a"},
        {"text": "y", "n": 1.5, "more": "z", "origin": "b"},
    ]


def test_package_is_found_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "carrier"
    package.mkdir()
    written(package / "__init__.py", "raise RuntimeError('imported')")
    write_format(package / "reviews.jsonl")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert read("package:carrier/reviews.jsonl") == ROWS
    with pytest.raises(DataError, match=r"Did you mean '.*carrier/reviews.jsonl'"):
        open_source("package:carrier/revews.jsonl")
    with pytest.raises(DataError, match=r"no installed package is named 'carier'"):
        open_source("package:carier/reviews.jsonl")


def test_blank_cells_and_nan_are_none(tmp_path: Path) -> None:
    csv = written(tmp_path / "a.csv", 'text,n\n"",1\n  ,\nx,3\n')
    assert read(csv) == [{"text": None, "n": 1}, {"text": None, "n": None}, {"text": "x", "n": 3}]
    lines = written(tmp_path / "a.jsonl", '{"text": " ", "n": NaN}\n\n{"n": 2}\n')
    assert read(lines) == [{"text": None, "n": None}, {"text": None, "n": 2}]


def test_csv_types_hold_for_the_whole_column(tmp_path: Path) -> None:
    csv = written(tmp_path / "a.csv", "zip,hex,word,whole,share\n01234,0x10,nan,1,1\n99999,11,inf,-2,.5\n")
    assert open_source(str(csv)).columns() == {
        "zip": "string", "hex": "string", "word": "string", "whole": "int64", "share": "double",
    }  # fmt: skip
    assert read(csv)[0] == {"zip": "01234", "hex": "0x10", "word": "nan", "whole": 1, "share": 1.0}


def test_headerless_table_with_named_columns(tmp_path: Path) -> None:
    path = written(tmp_path / "truth.txt", '1_1\t-0.9\tan "unbalanced quote\r\n1_2\t2\tcaf\xe9\r\n'.encode("latin-1"))
    options = "#format=tsv&columns=id,score,text&quote=none&encoding=latin-1"
    assert read(f"{path}{options}") == [
        {"id": "1_1", "score": -0.9, "text": 'an "unbalanced quote'},
        {"id": "1_2", "score": 2.0, "text": "café"},
    ]


def test_bom_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    assert read(written(tmp_path / "a.csv", "\ufefftext\nx\n")) == [{"text": "x"}]
    assert read(written(tmp_path / "a.jsonl", '\ufeff{"text": "x"}\n')) == [{"text": "x"}]


def test_ragged_rows_are_rejected_in_their_places(tmp_path: Path) -> None:
    body = 'text,n\n"two\nlines",1\nshort\nok,2\nlong,3,4\n'
    found = list(open_source(str(written(tmp_path / "a.csv", body))).rows())
    assert [place.row for place, _ in found] == [1, 2, 3, 4]
    assert found[0][1] == {"text": "two\nlines", "n": 1}
    assert [str(row) for _, row in found if isinstance(row, RejectedRecord)] == [
        "the row has 1 cells where there are 2 columns",
        "the row has 3 cells where there are 2 columns",
    ]


def test_bad_json_lines_are_rejected_in_their_places(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"a": 1}\n{"a": \n[1]\n{"a": 1, "a": 2}\n' + "[" * 9999 + "\n")
    found = {place.row: row for place, row in open_source(str(path)).rows()}
    assert found[1] == {"a": 1}
    assert all(isinstance(found[row], RejectedRecord) for row in (2, 3, 4, 5))


BAD: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.csv", b"", "the file is empty"),
    "blank lines only": ("a.csv", b"\n\n", "the file is empty"),
    "empty jsonl": ("a.jsonl", b"", "the file is empty"),
    "header only": ("a.csv", b"text,label\n", r"has no records, only columns \(text, label\)"),
    "duplicate column": ("a.csv", b"text,text\nx,y\n", "the column 'text' stands twice"),
    "latin-1": (
        "a.csv",
        "text,n\nx,1\ncafé,2\n".encode("latin-1"),
        r"byte 14 \(line 3\) is not utf-8.*#encoding=latin-1",
    ),
    "cp1252": ("a.csv", "text,n\n“x”,1\n".encode("cp1252"), "#encoding=cp1252"),
    "utf-16": ("a.csv", "text,n\nx,1\n".encode("utf-16"), "#encoding=utf-16"),
    "latin-1 jsonl": (
        "a.jsonl",
        '{"a": "é"}\n'.encode("latin-1"),
        r"byte 7 \(line 1\) is not utf-8.*#encoding=latin-1",
    ),
    "corrupt parquet": ("a.parquet", b"PAR1" + b"\0" * 64 + b"PAR1", "a.parquet: not a readable parquet file"),
    "corrupt arrow": ("a.arrow", b"nonsense" * 9, "a.arrow: not a readable arrow file"),
    "unknown suffix": ("a.xls", b"x", "the suffix of 'a.xls' tells no format"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_explained(tmp_path: Path, case: str) -> None:
    name, content, message = BAD[case]
    path = written(tmp_path / name, content)
    with pytest.raises(DataError, match=message):
        read(path)


def test_parquet_damaged_inside_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": [f"{'x' * 50} {row}" for row in range(20_000)]}), path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)
    source = open_source(str(path))
    assert list(source.columns()) == ["text"]
    with pytest.raises(DataError, match=r"not a readable parquet file"):
        list(source.rows())


def test_duplicate_parquet_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["n", "n"]), path)
    with pytest.raises(DataError, match=r"'n' stands twice"):
        open_source(str(path)).columns()


def test_encoding_option_reads_what_the_error_proposes(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "text,n\ncafé,2\n".encode("latin-1"))
    assert read(f"{path}#encoding=latin-1") == [{"text": "café", "n": 2}]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("revews.csv", r"no such file. Did you mean '.*reviews.csv'"),
        ("nowhere/a.csv", "no folder"),
        ("*.parquet", r"no file fits this pattern.*holds reviews.csv"),
        ("s3://bucket/a.csv", "no such kind of source as 's3:'"),
        ("reviews.csv#delimeter=tab", "'delimeter' is no option of a source. Did you mean 'delimiter'"),
        ("reviews.csv#delimiter=tabs", "a delimiter is one character"),
        ("reviews.csv#encoding=utf-99", "no such encoding"),
        ("package:reviews.csv", "package:<package>/<path inside it>"),
    ],
)
def test_wrong_address_says_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    written(tmp_path / "reviews.csv", "text\nx\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        open_source(source)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no file that ends in"):
        open_source(str(tmp_path))


def test_fingerprint_is_of_content_and_options(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a.csv", "text\nx\n"), written(tmp_path / "b.csv", "text\nx\n")
    print_of = lambda source: open_source(str(source)).fingerprint()  # noqa: E731
    assert print_of(first) == print_of(second)
    assert print_of(first) != print_of(f"{first}#delimiter=tab")
    before = print_of(first)
    written(first, "text\ny\n")  # the same size, a moment later
    assert print_of(first) != before


def test_unchanged_file_is_not_hashed_again(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "text\nx\n")
    os.utime(path, ns=(10**18, 10**18))
    before = open_source(str(path)).fingerprint()
    written(path, "text\ny\n")
    os.utime(path, ns=(10**18, 10**18))  # nobody can tell without reading it, so it was not read
    assert open_source(str(path)).fingerprint() == before
    os.utime(path, ns=(10**18 + 1, 10**18 + 1))
    assert open_source(str(path)).fingerprint() != before


def _saved(folder: Path, data: Any) -> Path:
    data.save_to_disk(str(folder))
    return folder


def test_data_set_of_the_hub_in_a_local_folder(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    part = datasets.Dataset.from_list([{"text": "x", "label": 1}, {"text": "y", "label": 0}], features=features)
    folder = _saved(tmp_path / "set", datasets.DatasetDict({"train": part, "validation": part.select([0])}))
    source = open_source(f"hf:{folder}")
    assert source.columns() == {"text": "string", "label": "string", "split": "string"}
    assert list(source.rows()) == [
        (Place("train", 1), {"text": "x", "label": "good", "split": "train"}),
        (Place("train", 2), {"text": "y", "label": "bad", "split": "train"}),
        (Place("validation", 1), {"text": "x", "label": "good", "split": "valid"}),
    ]
    assert read(f"hf:{folder}#split=validation") == [{"text": "x", "label": "good"}]
    assert source.fingerprint() != open_source(f"hf:{folder}#split=train").fingerprint()
    with pytest.raises(DataError, match=r"no split 'test'; there are: train, validation"):
        open_source(f"hf:{folder}#split=test").columns()
    with pytest.raises(DataError, match=r"heliostat data fetch"):
        open_source("hf:nobody/nothing").columns()
