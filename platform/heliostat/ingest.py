"""A run -> its prepared data, made in this process or by Ray Data, whichever fits the source.

Ray Data drives the same functions of `heliostat.data`: tasks read files, make examples and encode them, and hand them
back in the order of the source. So both engines write the same shards under the same key.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import lru_cache, partial
from numbers import Number
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, cast

from heliostat.batch import Encoded
from heliostat.component import Row
from heliostat.data.encode import CHUNK, encode
from heliostat.data.examples import Example, ExampleMaker, grouped, unusable
from heliostat.data.formats import SourceFile
from heliostat.data.prepare import Made, Progress
from heliostat.data.prepare import prepare as prepare_with
from heliostat.data.prepared import Prepared
from heliostat.data.rejects import Place, Reject
from heliostat.data.sources import FileSource, Source, open_source
from heliostat.data.stored import Stored, chunked, num_row_groups, read_stored
from heliostat.errors import DataError, RejectedRecord
from heliostat.home import home
from heliostat.plugin import Encoder, TaskHead
from heliostat.run import Run

LARGE_SOURCE_BYTES = 512 * 2**20
"""A source above this size is prepared on Ray where the run leaves the choice."""

Raw = tuple[Place, Row | RejectedRecord]
Units = Sequence[SourceFile | None]
"""What one task reads: a file, or all of a source (None)."""
_MANY_UNITS = 1 << 32
Columns = dict[str, int]
Block = dict[str, Any]
"""Rows of Ray Data: column -> values. What tasks hand on is pickled by Ray's own pickler, in a column `parcel`:
raw records and encoded examples have no common schema, and pass between processes of one Ray only."""


def prepare(run: Run, *, on_progress: Progress | None = None) -> Prepared:
    """The prepared data of `run`; made now if they are not there yet.

    Raises DataError when the source cannot be read or its records do not fit the run.
    """
    with ExitStack() as stack:
        size = open_source(run.data.source).size_bytes
        if choose_engine(run.data.engine, size) == "local":
            return prepare_with(run, on_progress=on_progress)
        return prepare_with(run, on_progress=on_progress, engine=RayData(stack))


def prepared_once(run: Run, folder: Path, on_progress: Progress | None = None) -> Prepared:
    """The prepared data that a note in `folder` names, or else those of `run`, which are then noted.

    What is resumed so goes on with the data it began with, whatever became of their source. Where they are gone they
    are made anew. Raises DataError when what is made now are others, and as `prepare` does.
    """
    note = folder / "prepared"
    noted = note.read_text(encoding="utf-8").strip() if note.is_file() else ""
    place = home() / "prepared" / noted
    if noted and Prepared.is_complete(place):
        return Prepared.open(place)
    prepared = prepare(run, on_progress=on_progress)
    if noted and prepared.key != noted:  # a position in those would be another place in these
        raise DataError(
            f"'{folder.name}' began with the data {noted}, which are gone, and what its source, its settings and the "
            f"code give now are others ({prepared.key}). Put {place} back, or start anew."
        )
    note.write_text(prepared.key, encoding="utf-8")
    return prepared


def choose_engine(engine: Literal["auto", "local", "ray"], size_bytes: int) -> Literal["local", "ray"]:
    """What drives the preparation: `auto` takes Ray for a large source, or where several nodes are connected."""
    if engine != "auto":
        return engine
    return "ray" if size_bytes > LARGE_SOURCE_BYTES or _on_several_nodes() else "local"


def _on_several_nodes() -> bool:
    ray = sys.modules.get("ray")  # a process that has not imported Ray is connected to no cluster
    if ray is None or not ray.is_initialized():
        return False
    return sum(bool(node["Alive"]) for node in ray.nodes()) > 1


class RayData:
    """Reads and encodes by tasks of Ray Data; all nodes see the folder of the prepared data."""

    def __init__(self, sessions: ExitStack) -> None:
        self._sessions = sessions
        """Holds the Ray that is started here, where none is connected, for as long as its owner says."""

    def make(self, source: Source, maker: ExampleMaker) -> Iterator[Made]:
        """The examples and rejects of all records: a task a file reads, others make examples."""
        source.columns()  # read once here; tasks get what was found
        units: Units = list(source.files) if isinstance(source, FileSource) else [None]
        cpus = self._connect()
        # A task that reads waits while others are behind. It asks for so little that they always find room; and because
        # the shares differ, Ray does not fuse the two, so that one large file is read by one task and worked on by all.
        reading: dict[str, Any] = {"num_cpus": 0.1, "concurrency": min(cpus, len(units))}
        if maker.adapter.group_by is None:
            raw = _tasks(len(units)).map_batches(partial(_read, source, units), batch_size=1, **reading)
            made = raw.map_batches(partial(_make, maker), batch_size=1, num_cpus=0.9)
        else:
            split_up = partial(_read_into_buckets, source, units, maker.adapter.group_by, 4 * cpus)
            raw = _tasks(len(units)).map_batches(split_up, batch_size=1, **reading)
            buckets = raw.groupby("bucket", num_partitions=2 * cpus)
            made = buckets.map_groups(partial(_make_groups, maker), num_cpus=0.9).sort(["unit", "record"])
        total = 0
        for each in _contents(made):
            total += each.num_records
            yield each
        if total == 0:
            next(source.rows())  # says what is wrong with an empty source

    def encode(self, encoder: Encoder, head: TaskHead, stored: Path) -> Iterator[tuple[Stored, Encoded | str]]:
        """The examples by row groups of their file, with the components that were fitted."""
        from ray import cloudpickle

        self._connect()
        folder = stored.parent / f"fitted-{stored.stem}"
        for name, component in (("encoder", encoder), ("head", head)):
            (folder / name).mkdir(parents=True)
            component.save(folder / name)
        kinds = cloudpickle.dumps((type(encoder), encoder.config, type(head), head.config))
        tasks = _tasks(num_row_groups(stored))
        for pairs in _contents(tasks.map_batches(partial(_encode, kinds, str(folder), stored), batch_size=1)):
            yield from pairs

    def _connect(self) -> int:
        """The CPUs of the Ray that is there, or that is started now."""
        import ray

        from heliostat.ray_session import ray_session

        log = home() / "logs" / "prepare-ray.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        session: AbstractContextManager[None] = ray_session(log)
        self._sessions.enter_context(session)
        cpus = int(ray.cluster_resources().get("CPU", 0))
        if cpus < 1:
            raise DataError("this Ray cluster has no CPU to prepare data on. Add one, or set data.engine=local.")
        return cpus


def _tasks(count: int) -> Any:
    """Numbers from 0, each for a task of its own, whose results keep this order."""
    import logging

    import ray

    tasks = ray.data.from_items([{"number": number} for number in range(count)], override_num_blocks=min(count, 512))
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # after the first use, which sets it to INFO
    tasks.context.execution_options.preserve_order = True
    tasks.context.enable_progress_bars = False
    tasks.context.target_max_block_size = 16 * 2**20
    return tasks


def _packed(contents: Iterator[tuple[Columns, Any]], on_error: Columns) -> Iterator[Block]:
    """Each content as a block of one row; a DataError ends them and travels as the last one."""
    from ray import cloudpickle

    try:
        for columns, content in contents:
            yield {**{name: [value] for name, value in columns.items()}, "parcel": [cloudpickle.dumps(content)]}
    except DataError as error:
        yield {**{name: [value] for name, value in on_error.items()}, "parcel": [cloudpickle.dumps(error)]}


def _opened(block: Block) -> Iterator[Any]:
    """The contents of a block. Raises the DataError that travels among them."""
    from ray import cloudpickle

    for cell in block["parcel"]:
        content = cloudpickle.loads(cell)
        if isinstance(content, DataError):
            raise content
        yield content


def _contents(dataset: Any) -> Iterator[Any]:
    for block in dataset.iter_batches(batch_size=None, batch_format="numpy"):
        yield from _opened(block)


# What tasks run: plain functions of the source, the maker and a block.


def _read(source: Source, units: Units, block: Block) -> Iterator[Block]:
    """The raw records of one unit, in chunks."""
    return _packed((({}, chunk) for chunk in _chunks(source, units, int(block["number"][0]))), {})


def _chunks(source: Source, units: Units, number: int) -> Iterator[list[Raw]]:
    unit = units[number]
    return chunked(source.rows() if unit is None else cast(FileSource, source).rows_in(unit), CHUNK)


def _make(maker: ExampleMaker, block: Block) -> Iterator[Block]:
    """The examples of chunks of raw records, where a record is a group."""

    def made() -> Iterator[tuple[Columns, Made]]:
        for chunk in _opened(block):
            outcomes = [outcome for place, row in chunk for outcome in _outcomes(maker, place, row)]
            yield {}, Made(sum(row.num_records if isinstance(row, RejectedRecord) else 1 for _, row in chunk), outcomes)

    return _packed(made(), {})


def _outcomes(maker: ExampleMaker, place: Place, row: Row | RejectedRecord) -> Iterable[Example | Reject]:
    reject = unusable(place, row, None)
    return [reject] if reject else maker([(place, cast(Row, row))])


def _read_into_buckets(source: Source, units: Units, group_by: str, num_buckets: int, block: Block) -> Iterator[Block]:
    """The raw records of one unit with their numbers in it, in chunks that hold whole groups together by bucket."""
    unit = int(block["number"][0])

    def buckets() -> Iterator[tuple[Columns, Any]]:
        first = 0
        for chunk in _chunks(source, units, unit):
            found: dict[int, list[Any]] = defaultdict(list)
            for number, (place, row) in enumerate(chunk, start=first):
                bucket = 0 if isinstance(row, RejectedRecord) else _bucket(row[group_by], num_buckets)
                found[bucket].append(((unit, number), place, row))
            first += len(chunk)
            yield from (({"bucket": bucket}, records) for bucket, records in found.items())

    return _packed(buckets(), {"bucket": 0})


def _bucket(value: Any, num_buckets: int) -> int:
    """The same for equal values in every process: Python hashes numbers alike in all of them, and texts do not."""
    return zlib.crc32(repr(hash(value) if isinstance(value, Number) else value).encode()) % num_buckets


def _make_groups(maker: ExampleMaker, block: Block) -> Iterator[Block]:
    """The examples of the groups in one bucket, each group under the number of its first record."""

    def made() -> Iterator[tuple[Columns, Made]]:
        records = sorted((record for part in _opened(block) for record in part), key=itemgetter(0))
        group_by, readable = maker.adapter.group_by, []
        for (unit, number), place, row in records:
            if reject := unusable(place, row, group_by):
                # Ahead of all groups, as in one process, which reads every record before it makes the first group.
                yield {"unit": unit - _MANY_UNITS, "record": number}, Made(reject.num_records, [reject])
            else:
                readable.append((place, row))
        numbers = {place: number for number, place, row in records}
        for group in grouped(readable, group_by, maker.adapter.order_by):
            unit, number = min(numbers[place] for place, _ in group)
            yield {"unit": unit, "record": number}, Made(len(group), list(maker(group)))

    return _packed(made(), {"unit": -_MANY_UNITS, "record": -1})


def _encode(kinds: bytes, folder: str, stored: Path, block: Block) -> Iterator[Block]:
    """The examples of one row group with their encoded forms."""
    encoder, head = _fitted(kinds, folder)

    def pairs() -> Iterator[tuple[Columns, Any]]:
        for chunk in chunked(read_stored(stored, [int(block["number"][0])]), CHUNK):
            yield {}, list(zip(chunk, encode(encoder, head, [one.values for one in chunk]), strict=True))

    return _packed(pairs(), {})


@lru_cache(maxsize=2)
def _fitted(kinds: bytes, folder: str) -> tuple[Encoder, TaskHead]:
    """The components as they were saved; a process loads them once."""
    from ray import cloudpickle

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # there is a task a core already
    encoder_type, encoder_config, head_type, head_config = cloudpickle.loads(kinds)
    encoder, head = encoder_type(encoder_config), head_type(head_config)
    encoder.load(Path(folder) / "encoder")
    head.load(Path(folder) / "head")
    return encoder, head
