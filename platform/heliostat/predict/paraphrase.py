"""Train examples in other words: each text goes through models that write, as to French and back (Sennrich 2016)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from heliostat.component import Row
from heliostat.data.prepared import SPLITS, Prepared
from heliostat.data.split import normalised
from heliostat.errors import DataError, PredictError
from heliostat.plugin import Record, TaskHead
from heliostat.predict.predictor import Predictor
from heliostat.predict.sinks import staged
from heliostat.run.cleaning import text_fields

Writer = Callable[[Sequence[str]], list[str | None]]
"""Texts in, texts out, in order; None for one that it cannot answer."""

SPLIT, ORIGIN = "split", "origin"
_CHUNK = 256


def writer(predictor: Predictor) -> Writer:
    """A model that reads one text and writes one. Raises DataError for any other."""
    takes, gives = text_fields(type(predictor.head)), _texts(predictor.head.gives)
    if len(takes) != 1 or not gives or getattr(predictor.head, "labels", None):
        raise DataError(f"{predictor.run.name} does not read one text and write one, as a translation does.")

    def write(texts: Sequence[str]) -> list[str | None]:
        try:
            return [str(answer[gives[0]]) for answer in predictor.predict([{takes[0]: text} for text in texts])]
        except PredictError:
            if len(texts) == 1:
                return [None]
        return [written for text in texts for written in write([text])]

    return write


def _texts(record: type[Record]) -> list[str]:
    return [name for name, field in record.model_fields.items() if field.annotation is str]


def the_field(head: type[TaskHead], asked: str | None) -> str:
    """The field to say in other words. Raises DataError when it is not said which of several, or there is none."""
    fields = text_fields(head)
    if asked in fields or (asked is None and len(fields) == 1):
        return asked or fields[0]
    raise DataError(f"--field takes a text that {head.__name__} reads: {', '.join(fields) or 'there is none'}.")


def paraphrased(rows: Iterable[Row], field: str, writers: Sequence[Writer]) -> Iterator[Row]:
    """Each row with its text passed through all writers; rows whose text comes back the same, or not at all, go."""
    rest = iter(rows)
    while chunk := list(islice(rest, _CHUNK)):
        texts: list[str | None] = [row[field] for row in chunk]
        for write in writers:
            there = [text for text in texts if text]
            written = iter(write(there) if there else [])
            texts = [next(written) if text else None for text in texts]
        for row, text in zip(chunk, texts, strict=True):
            if text and text.strip() and normalised(text) != normalised(row[field]):
                yield {**row, field: text}


def write_with_paraphrases(prepared: Prepared, field: str, writers: Sequence[Writer], out: Path) -> dict[str, int]:
    """All examples as JSON lines with their split, and behind them those of train in other words; counts by origin.

    The file is there when it is whole. Raises DataError when it cannot be written.
    Valid and test are as they were, so a run that reads the file by `split: {by: column, column: split}` cannot leak.
    """
    counts = {"source": 0, "paraphrase": 0}
    with staged(out) as path, path.open("w", encoding="utf-8") as file:

        def put(row: Row, split: str, origin: str) -> None:
            counts[origin] += 1
            file.write(json.dumps({**row, SPLIT: split, ORIGIN: origin}, ensure_ascii=False) + "\n")

        for split in SPLITS:
            for row in prepared.examples(split):
                put(row, split, "source")
        for row in paraphrased(prepared.examples("train"), field, writers):
            put(row, "train", "paraphrase")
    return counts
