"""A file of records in, the same file with predictions beside them out; chunk by chunk, whatever its size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin

from heliostat.component import Row, closest
from heliostat.data.formats import (
    Numbered,
    Options,
    SourceFile,
    columns_of,
    format_of,
    parse_options,
    rows_of,
    schema_of,
)
from heliostat.data.sources import said
from heliostat.errors import DataError, PredictError, RejectedRecord
from heliostat.plugin import Record
from heliostat.predict.sinks import ADDED, PROBLEM, Sink, open_sink, sink_of
from heliostat.run.cleaning import kinds_of

if TYPE_CHECKING:
    from heliostat.predict.predictor import Predictor

_CHUNK = 4096
"""Rows that are in memory at once, and sorted by length among themselves."""


class Answered(NamedTuple):
    """One row of the file with its prediction, or with the reason why there is none."""

    row: Row
    prediction: Row | None
    problem: str


class FileResult(NamedTuple):
    """What came of a file."""

    num_rows: int
    num_answered: int
    num_unreadable: int
    """Records that are no records (a ragged line): they are left out of the output."""
    first_problem: str


Answerer = Callable[[int, Sequence[Row]], Sequence[Answered]]
"""(number of the chunk, its rows) -> each row with its answer."""


def predict_file(
    predictor: Predictor, source: str, out: Path, *, on_progress: Callable[[int], None] | None = None
) -> FileResult:
    """Answer every record of `source` (csv, tsv, jsonl, parquet, arrow) and write `out` (csv, jsonl, parquet).

    Columns are taken by name and kept; predictions stand beside them as `predicted_<field>`. A record that cannot be
    answered keeps its place, with the reason in `prediction_problem`. `out` appears when it is whole. Raises DataError
    for a file that cannot be read, lacks a column, or an `out` that is the source or of no known format.
    """
    return write_answers(
        predictor.head.takes, source, out, lambda _, rows: answer_rows(predictor, rows), on_progress=on_progress
    )


def write_answers(
    takes: type[Record], source: str, out: Path, answer: Answerer, *, on_progress: Callable[[int], None] | None = None
) -> FileResult:
    """As `predict_file`, whoever answers the records, which are of the form `takes`."""
    asked = Asked.of(takes, source, out)
    num_rows = num_answered = num_unreadable = 0
    first_problem = ""
    with open_sink(out, asked.kinds, schema_of(asked.file)) as sink:
        for number, numbered in asked.chunks():
            unreadable = [(place, row) for place, row in numbered if isinstance(row, RejectedRecord)]
            readable = [(place, row) for place, row in numbered if not isinstance(row, RejectedRecord)]
            answered = answer(number, [row for _, row in readable])
            sink.write([(each.row, each.prediction, each.problem) for each in answered])
            lost = sum(row.num_records for _, row in unreadable)
            num_rows, num_unreadable = num_rows + len(readable) + lost, num_unreadable + lost
            num_answered += sum(each.prediction is not None for each in answered)
            problems = [(place, str(row)) for place, row in unreadable]
            problems += [(n, each.problem) for (n, _), each in zip(readable, answered, strict=True) if each.problem]
            if problems and not first_problem:
                place, problem = min(problems)
                first_problem = f"record {place}: {problem}"
            if on_progress:
                on_progress(num_rows)
    return FileResult(num_rows, num_answered, num_unreadable, first_problem)


class Asked(NamedTuple):
    """A file whose records are to be answered, checked, and how it is read: the same whoever reads it."""

    file: SourceFile
    options: Options
    kinds: dict[str, str]
    """Its columns with what they hold."""
    types: dict[str, str]
    """What text columns are read as."""
    chunk: int
    """Rows that are answered together."""

    @classmethod
    def of(cls, takes: type[Record], source: str, out: Path) -> Asked:
        """Raises DataError as `predict_file` does."""
        file, options = _open_source(source)
        if out.exists() and out.samefile(file.path):
            raise DataError(f"--out {out} is the input itself. Write to another file.")
        kinds = columns_of(file, options)
        check_columns(kinds, takes, file.name)
        return cls(file, options, kinds, _types(kinds, takes, sink_of(out)), _CHUNK)

    def chunks(self) -> Iterator[tuple[int, list[tuple[int, Row | RejectedRecord]]]]:
        """The records by their numbers in the file, in numbered chunks."""
        yield from enumerate(_chunks(rows_of(self.file, self.options, self.types), self.chunk))


def _open_source(source: str) -> tuple[SourceFile, Options]:
    name, _, given = (source, "", "") if Path(source).exists() else source.partition("#")
    path = Path(name).expanduser()
    if not path.is_file():
        raise DataError(f"there is no file '{name}'.")
    options = parse_options(given, name)
    format = format_of(path, options)
    if format is None:
        raise DataError(f"{name}: its name tells no format. Add one, as in '{name}#format=csv'.")
    return SourceFile(path.absolute(), name, format), options


def check_columns(columns: Sequence[str] | dict[str, str], record: type[Record], name: str) -> None:
    """Raise DataError when a required field of the record has no column, or an added column is there already."""
    missing = [field for field, info in record.model_fields.items() if info.is_required() and field not in columns]
    if missing:
        guess = closest(missing[0], [*columns])
        hint = f"Did you mean '{guess}'? Rename it to '{missing[0]}'. " if guess else ""
        raise DataError(f"{name} has no column '{missing[0]}'. {hint}There are: {', '.join(columns)}.")
    taken = [column for column in columns if column == PROBLEM or column.startswith(ADDED)]
    if taken:
        raise DataError(f"{name} has a column '{taken[0]}' already, a name that predictions take. Rename it.")


def _types(kinds: dict[str, str], record: type[Record], sink: type[Sink]) -> dict[str, str]:
    """What text columns are read as: a text field stays text though all its cells are numbers."""
    texts = {name for name, field in record.model_fields.items() if _is_text(field.annotation)}
    return {name: kind for name, kind in kinds.items() if name not in texts} if sink.is_typed else {}


def _is_text(annotation: Any) -> bool:
    """Whether a field takes texts and no numbers: a text, one of several words, or nothing."""
    kinds = [kind for kind in kinds_of(annotation) if kind is not type(None)]
    words = [get_args(kind) if get_origin(kind) is Literal else (kind,) for kind in kinds]
    return all(each is str or isinstance(each, str) for some in words for each in some)


def answer_rows(predictor: Predictor, rows: Sequence[Row]) -> list[Answered]:
    """Answer each row by the columns that the model reads; a row that breaks its record has a problem instead."""
    record = predictor.head.takes
    asked = [_asked(row, record) for row in rows]
    problems: dict[int, str] = {}
    left = list(range(len(rows)))
    while True:
        try:
            answers = dict(zip(left, predictor.predict([asked[place] for place in left]), strict=True))
            break
        except PredictError as error:
            for problem in error.problems:
                rule = f"{problem.field}: {problem.rule}" if problem.field else problem.rule
                problems.setdefault(left[problem.index], rule)
            left = [place for place in left if place not in problems]
    return [Answered(row, answers.get(place), problems.get(place, "")) for place, row in enumerate(rows)]


def _asked(row: Row, record: type[Record]) -> Row:
    """The fields that a row has, read as in training; an empty cell of a field with a default is as good as none."""
    cells = {name: said(row[name]) for name in record.model_fields if name in row}
    fields = record.model_fields
    return {name: cell for name, cell in cells.items() if cell is not None or fields[name].is_required()}


def _chunks(numbered: Numbered, size: int) -> Iterator[list[tuple[int, Row | RejectedRecord]]]:
    while chunk := list(islice(numbered, size)):
        yield chunk
