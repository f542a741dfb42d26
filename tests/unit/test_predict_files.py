"""Predictions of files: columns by name, kept as they were, with answers or reasons beside them."""

from __future__ import annotations

import csv
import json
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from heliostat.component import Row
from heliostat.errors import DataError
from heliostat.plugin import Field, Record
from heliostat.predict import Predictor, tables
from heliostat.predict.sinks import Parquet, flat, open_sink
from heliostat.predict.tables import Asked, answer_rows, check_columns, predict_file


@pytest.fixture(scope="module")
def predictor(tiny_checkpoint: Path) -> Predictor:
    return Predictor.load(tiny_checkpoint, threads=1)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_CHUNK", 2)  # so that a file of five records has three chunks


TABLE = 'code,text,price\n007,"rain, again",1.50\n008,1234,2\n009,,3\n010,lovely,4\n011,the bus,5\n'


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    path.write_text(TABLE, encoding="utf-8")
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_csv_to_csv_keeps_every_cell(predictor: Predictor, source: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    result = predict_file(predictor, str(source), tmp_path / "out.csv", on_progress=seen.append)
    assert (result.num_rows, result.num_answered, result.num_unreadable) == (5, 4, 0)
    assert result.first_problem == "record 3: text: should be a valid string."
    assert seen == [2, 4, 5]
    rows = read_csv(tmp_path / "out.csv")
    assert [(row["code"], row["text"], row["price"]) for row in rows][:2] == [
        ("007", "rain, again", "1.50"),
        ("008", "1234", "2"),
    ]
    assert [bool(row["predicted_label"]) for row in rows] == [True, True, False, True, True]
    assert rows[2]["prediction_problem"].startswith("text:")
    [direct] = predictor.predict([{"text": "rain, again"}])
    assert float(rows[0]["predicted_probabilities.sad"]) == pytest.approx(direct["probabilities"]["sad"], abs=1e-5)


def test_csv_to_parquet_has_types(predictor: Predictor, source: Path, tmp_path: Path) -> None:
    predict_file(predictor, str(source), tmp_path / "out.parquet")
    table = parquet.read_table(tmp_path / "out.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "code": "string",
        "text": "string",
        "price": "double",
        "predicted_label": "string",
        **{f"predicted_probabilities.{label}": "double" for label in ("glad", "plain", "sad")},
        "prediction_problem": "string",
    }
    assert table.column("text").to_pylist()[1:3] == ["1234", None]


def test_parquet_to_jsonl_stays_nested(predictor: Predictor, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": ["rain", "sun"], "tags": [["a"], []]}), tmp_path / "in.parquet")
    predict_file(predictor, str(tmp_path / "in.parquet"), tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows[0]["tags"] == ["a"]
    assert set(rows[0]) == {"text", "tags", "predicted_label", "predicted_probabilities"}
    assert set(rows[0]["predicted_probabilities"]) == {"glad", "plain", "sad"}


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_jsonl_with_bad_lines(predictor: Predictor, tmp_path: Path, suffix: str) -> None:
    lines = [
        '{"text": "rain", "n": 1}',
        "{broken",
        "[]",
        '{"text": 5, "n": 0.5}',
        '{"text": "sun"}',
        '{"text": "\\ud800"}',
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    result = predict_file(predictor, str(tmp_path / "in.jsonl"), tmp_path / f"out.{suffix}")
    assert (result.num_rows, result.num_answered, result.num_unreadable) == (6, 2, 2)
    assert result.first_problem.startswith("record 2:")
    if suffix == "parquet":
        table = parquet.read_table(tmp_path / "out.parquet")
        assert table.column("text").to_pylist() == ["rain", "5", "sun", "?"]
        assert table.column("n").to_pylist() == [1.0, 0.5, None, None]


def test_a_file_without_any_answer_still_comes_out(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text,n\n,1\n,2\n,3\n")
    for suffix in ("csv", "parquet", "jsonl"):
        assert predict_file(predictor, str(tmp_path / "in.csv"), tmp_path / f"out.{suffix}").num_answered == 0
    assert [row["n"] for row in read_csv(tmp_path / "out.csv")] == ["1", "2", "3"]
    assert parquet.read_table(tmp_path / "out.parquet").column_names == ["text", "n", "prediction_problem"]


def test_a_header_without_records(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text,n\n")
    for suffix in ("csv", "parquet", "jsonl"):
        assert predict_file(predictor, str(tmp_path / "in.csv"), tmp_path / f"out.{suffix}").num_rows == 0


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("in.csv", b"txt,n\nrain,1\n", "has no column 'text'. Did you mean 'txt'"),
        ("in.csv", b"a,b\nrain,1\n", "There are: a, b"),
        ("in.csv", b"", "is empty"),
        ("in.csv", b'text,n\nrain,1\n"sun,2\nsnow,3\n', "on line 3 is never closed"),
        ("in.csv", "text\ncafé\n".encode("latin-1"), "latin-1"),
        ("in.csv", b"text,predicted_label\nrain,x\n", "Rename it"),
        ("in.parquet", b"PAR1 broken", "not a readable parquet"),
        ("in.weird", b"text\nrain\n", "tells no format"),
    ],
)
def test_a_bad_file_is_one_sentence(
    predictor: Predictor, tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        predict_file(predictor, str(tmp_path / name), tmp_path / "out.csv")
    assert sentence in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_options_stand_behind_a_hash(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("n;text\n1;rain\n")
    result = predict_file(predictor, f"{tmp_path / 'in.txt'}#format=csv&delimiter=semicolon", tmp_path / "out.csv")
    assert result.num_answered == 1


def test_a_file_is_not_written_over_itself(predictor: Predictor, source: Path) -> None:
    with pytest.raises(DataError, match="the input itself"):
        predict_file(predictor, str(source), source)
    assert source.read_text() == TABLE


def test_an_unknown_ending_is_refused(predictor: Predictor, source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There are: \.csv"):
        predict_file(predictor, str(source), tmp_path / "out.xlsx")


def test_a_column_of_several_types_says_what_to_do(tmp_path: Path) -> None:
    sink = Parquet(tmp_path / "out.parquet", {"n": "list"})
    answer: dict[str, Any] = {"label": "a"}
    sink.write([({"n": [1]}, answer, "")])
    for later in (["one"], [2**70]):
        with pytest.raises(DataError, match="jsonl"):
            sink.write([({"n": later}, answer, "")])


def test_objects_whose_keys_differ_lose_nothing(tmp_path: Path) -> None:
    rows: list[Any] = [[], [{"a": 0.9}, {"b": 0.8}], [{"c": 0.7, "\ud800": 0.1}]]
    with open_sink(tmp_path / "out.parquet", {"source": "struct"}) as sink:
        for row in rows:  # a chunk each
            sink.write([({"source": {"kept": 1}}, {"blanks": row}, "")])
    table = parquet.read_table(tmp_path / "out.parquet")
    assert [json.loads(text) for text in table.column("predicted_blanks").to_pylist()] == [
        *rows[:2],
        [{"c": 0.7, "?": 0.1}],
    ]
    assert table.column("source").to_pylist() == ['{"kept": 1}'] * 3


def test_what_later_chunks_bring_fits_the_columns(predictor: Predictor, tmp_path: Path) -> None:
    lines = [{"text": "rain", "meta": {"a": 1}, "id": 1, "n": 1, "any": 1}] * 2  # a chunk
    lines += [{"text": "sun", "meta": {"b": 2}, "id": 2**64, "n": 0.5, "any": "x"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    predict_file(predictor, str(tmp_path / "in.jsonl"), tmp_path / "out.parquet")
    found = parquet.read_table(tmp_path / "out.parquet").to_pylist()[2]
    assert (found["meta"], found["id"], found["n"], found["any"]) == ('{"b": 2}', str(2**64), 0.5, "x")


def test_parquet_keeps_the_types_of_its_source(predictor: Predictor, tmp_path: Path) -> None:
    prices = pa.array([Decimal("1.00"), Decimal("2.00"), Decimal("1000.00")], pa.decimal128(10, 2))
    source = pa.table({"text": ["rain", "sun", "snow"], "price": prices, "meta": [{"a": 1}, {"a": 2}, None]})
    parquet.write_table(source, tmp_path / "in.parquet")
    predict_file(predictor, str(tmp_path / "in.parquet"), tmp_path / "out.parquet")
    assert parquet.read_table(tmp_path / "out.parquet").select(source.column_names).equals(source)


def test_nested_predictions_become_columns() -> None:
    assert flat({"a": 1, "b": {"c": {"d": 2}}, "e": [1]}) == {
        "predicted_a": 1,
        "predicted_b.c.d": 2,
        "predicted_e": [1],
    }


class Loan(Record):
    amount: float
    purpose: str
    note: str = ""


def test_a_field_with_a_default_needs_no_column() -> None:
    check_columns({"amount": "double", "purpose": "string"}, Loan, "loans.csv")
    with pytest.raises(DataError, match="no column 'purpose'"):
        check_columns({"amount": "double", "note": "string"}, Loan, "loans.csv")


class Firm(Record):
    zip: Annotated[str, Field(max_length=9)] | None = None
    size: Literal["1", "2"] | None = None
    staff: float | None = None
    note: str | None = None
    code: str | int = 0


def test_texts_of_digits_alone_stay_texts(tmp_path: Path) -> None:
    path = tmp_path / "firms.csv"
    path.write_text("zip,size,staff,note,code\n10115,1,5,7,3\n10117,2,6,8,4\n")
    asked = Asked.of(Firm, str(path), tmp_path / "out.parquet")
    [(_, [(_, first), _])] = asked.chunks()
    assert first == {"zip": "10115", "size": "1", "staff": 5, "note": "7", "code": 3}


def test_cells_that_say_nothing_are_none_as_in_training() -> None:
    row: Row = {"zip": " ", "size": "", "staff": float("nan"), "note": "", "code": 1}
    asked: list[Row] = []

    class Told:
        head = type("Head", (), {"takes": Firm})

        def predict(self, rows: list[Row]) -> list[Row]:
            asked.extend(rows)
            return [{}] * len(rows)

    answers = answer_rows(cast(Predictor, Told()), [row])
    assert asked == [{"code": 1}]
    assert answers[0].row is row
