"""A file of records answered on a Ray: one actor a core, a part for each chunk, the same output as by one process.

Parts lie beside the output until it is whole, and hold predictions only. So a job that died goes on with the chunks
that are missing; the output itself is written from the source by the code that writes it without Ray.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.component import Row
from heliostat.errors import DataError, RejectedRecord
from heliostat.home import home
from heliostat.predict.tables import Answered, Asked, FileResult, write_answers

if TYPE_CHECKING:
    from heliostat.plugin import Record
    from heliostat.predict.predictor import Precision

Block = dict[str, Any]


def predict_file_on_ray(
    checkpoint: Path,
    source: str,
    out: Path,
    *,
    precision: Precision = "fp32",
    on_progress: Callable[[int], None] | None = None,
) -> FileResult:
    """As `heliostat.predict.tables.predict_file`, by an actor for each core of a Ray that all see the folder of `out`.

    `on_progress` is told how many records are answered, those of an interrupted job among them. Raises DataError as
    `predict_file` does, and CheckpointError for a checkpoint that is none.
    """
    from heliostat import checkpoint as checkpoints

    checkpoint = Path(checkpoint).absolute()
    checkpoints.verify(checkpoint)
    takes = _head_of(checkpoint)
    asked = Asked.of(takes, source, out)
    parts = out.absolute().with_name(f".{out.name}.parts-{_key(checkpoint, asked, precision)}")
    parts.mkdir(parents=True, exist_ok=True)
    _answer_missing(checkpoint, asked, parts, precision, on_progress or (lambda done: None))
    result = write_answers(takes, source, out, partial(_from_part, parts))
    shutil.rmtree(parts)
    return result


def _head_of(checkpoint: Path) -> type[Record]:
    """The record that a checkpoint's head takes; its weights are not read."""
    from heliostat.plugin import TaskHead
    from heliostat.registry import find

    run = json.loads((checkpoint / "run.json").read_text(encoding="utf-8"))
    head: type[TaskHead] = find(run["head"]["type"], TaskHead)  # type: ignore[type-abstract]
    return head.takes


def _key(checkpoint: Path, asked: Asked, precision: str) -> str:
    """What parts depend on: the weights, the file's content and how it is read."""
    content = hashlib.sha256()
    with asked.file.path.open("rb") as file:
        while block := file.read(1 << 20):
            content.update(block)
    manifest = hashlib.sha256((checkpoint / "manifest.json").read_bytes()).hexdigest()
    read = [asked.options.model_dump_json(), sorted(asked.types.items()), asked.chunk]
    told = [content.hexdigest(), manifest, precision, *read]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]


def _answer_missing(
    checkpoint: Path, asked: Asked, parts: Path, precision: str, on_progress: Callable[[int], None]
) -> None:
    """Write the part of each chunk that has none."""
    import ray

    from heliostat.ray_session import ray_session

    log = home() / "logs" / "predict-ray.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with ray_session(log):
        cores = int(ray.cluster_resources().get("CPU", 0))
        if cores < 1:
            raise DataError("this Ray has no core to answer on. Leave --cluster out, or use another Ray.")
        # Reading waits for those who answer; it asks for so little that it finds room beside an actor a core.
        chunks = _one_task().map_batches(partial(_read, asked, parts), batch_size=1, num_cpus=0.1)
        done = chunks.map_batches(
            AnswersChunks,
            fn_constructor_args=(str(checkpoint), str(parts), precision),
            batch_size=1,
            num_cpus=0.9,
            concurrency=(1, cores),
        )
        answered = 0
        for block in done.iter_batches(batch_size=None, batch_format="numpy"):
            if problem := next((str(text) for text in block["problem"] if text), ""):
                raise DataError(problem)
            answered += int(block["rows"].sum())
            on_progress(answered)


def _one_task() -> Any:
    import logging

    import ray

    task = ray.data.from_items([{"number": 0}], override_num_blocks=1)
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # after the first use, which sets it to INFO
    task.context.enable_progress_bars = False
    task.context.target_max_block_size = 1 << 20
    return task


def _part(parts: Path, number: int) -> Path:
    return parts / f"{number:07}.jsonl"


def _read(asked: Asked, parts: Path, _: Block) -> Iterator[Block]:
    """The rows of each chunk that has no part yet; of one that has, their count."""
    from ray import cloudpickle

    try:
        for number, numbered in asked.chunks():
            rows = [row for _, row in numbered if not isinstance(row, RejectedRecord)]
            is_there = _part(parts, number).is_file()
            parcel = b"" if is_there else cloudpickle.dumps(rows)
            yield {"number": [number], "rows": [len(rows)], "parcel": [parcel], "problem": [""]}
    except DataError as error:
        yield {"number": [0], "rows": [0], "parcel": [b""], "problem": [str(error)]}


class AnswersChunks:
    """An actor: one predictor on one core, asked chunk after chunk."""

    def __init__(self, checkpoint: str, parts: str, precision: Precision) -> None:
        from heliostat.predict import Predictor

        # Ray Data's way of starting an actor is its constructor: reading a checkpoint belongs nowhere else here.
        self._predictor = Predictor.load(Path(checkpoint), threads=1, precision=precision)
        self._parts = Path(parts)

    def __call__(self, block: Block) -> Block:
        """Write the parts of these chunks; hand on how many rows they have."""
        from ray import cloudpickle

        from heliostat.predict.tables import answer_rows

        for number, parcel in zip(block["number"], block["parcel"], strict=True):
            if parcel:
                _write_part(_part(self._parts, int(number)), answer_rows(self._predictor, cloudpickle.loads(parcel)))
        return {"rows": block["rows"], "problem": block["problem"]}


def _write_part(path: Path, answered: Sequence[Answered]) -> None:
    """A line a row, under its name when it is whole."""
    staged = path.with_suffix(f".{os.getpid()}")
    with staged.open("w", encoding="utf-8") as file:
        for each in answered:
            file.write(json.dumps([each.prediction, each.problem]) + "\n")
    staged.replace(path)


def _from_part(parts: Path, number: int, rows: Sequence[Row]) -> list[Answered]:
    path = _part(parts, number)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if len(lines) != len(rows):
        raise DataError(f"the part {path} does not fit its source. Remove its folder and start again.")
    return [Answered(row, *json.loads(line)) for row, line in zip(rows, lines, strict=True)]
