"""Prepare once: source -> examples -> splits -> fitted components -> shards, in a folder named by its content.

What costs time, reading and encoding, is behind `Engine`: this process here, Ray Data in `heliostat.ingest`. The rest
is one pass each over files on disk and is the same whoever drives it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from heliostat.batch import Encoded
from heliostat.data.diagnosis import diagnose
from heliostat.data.encode import CHUNK, encode
from heliostat.data.examples import Example, ExampleMaker, Identities, grouped, needed_columns
from heliostat.data.key import data_key
from heliostat.data.leakage import leakage
from heliostat.data.missing import check_columns
from heliostat.data.prepared import SPLITS, Prepared, Split, seal
from heliostat.data.rejects import Place, Reject, RejectLog, check_rejects
from heliostat.data.shards import write_shards
from heliostat.data.sources import Source, open_source
from heliostat.data.split import assign, key_of
from heliostat.data.stats import Stats
from heliostat.data.stored import Stored, StoredWriter, chunked, read_stored, read_values
from heliostat.errors import DataError, RejectedRecord
from heliostat.home import home
from heliostat.plugin import Encoder, TaskHead
from heliostat.run import Run, build

Progress = Callable[[str, int, int | None], None]
"""Told (stage, how far, of how many or None) as work goes on; stages are reading, fitting, encoding, checking."""

_ABANDONED_S = 24 * 3600
"""Age after which the folder of a builder that was killed is removed."""


class Made(NamedTuple):
    """What became of some raw records."""

    num_records: int
    outcomes: list[Example | Reject]


class Engine(Protocol):
    """Who reads and encodes. Results come in the order of the source, so that every engine prepares the same."""

    def make(self, source: Source, maker: ExampleMaker) -> Iterator[Made]:
        """The examples and rejects of all records."""
        ...

    def encode(self, encoder: Encoder, head: TaskHead, stored: Path) -> Iterator[tuple[Stored, Encoded | str]]:
        """Each example of a file with its encoded form, or with the reason why it has none."""
        ...


class Local:
    """Reads and encodes in this process."""

    def make(self, source: Source, maker: ExampleMaker) -> Iterator[Made]:
        """The examples and rejects of all records, one group after the other."""
        unread: list[Reject] = []

        def readable() -> Iterator[tuple[Place, Any]]:
            for place, row in source.rows():
                if isinstance(row, RejectedRecord):
                    unread.append(Reject(place, str(row)))
                else:
                    yield place, row

        for group in grouped(readable(), maker.adapter.group_by, maker.adapter.order_by):
            yield Made(len(group) + len(unread), [*unread, *maker(group)])
            unread.clear()
        yield Made(len(unread), list(unread))

    def encode(self, encoder: Encoder, head: TaskHead, stored: Path) -> Iterator[tuple[Stored, Encoded | str]]:
        """The examples in chunks."""
        for chunk in chunked(read_stored(stored), CHUNK):
            yield from zip(chunk, encode(encoder, head, [example.values for example in chunk]), strict=True)


def prepare(run: Run, *, on_progress: Progress | None = None, engine: Engine | None = None) -> Prepared:
    """The prepared data of a run: made when they are not there, else opened.

    Raises DataError when the source cannot be read, a column is missing, too many records are rejected or a split is
    empty. Several processes may prepare the same data at once: each works in a folder of its own, and one stays.
    """
    source = open_source(run.data.source)
    key = data_key(run, source)
    folder = home() / "prepared" / key
    if Prepared.is_complete(folder):
        return _found(folder, run)
    with _workplace(folder) as work:
        preparation = _Preparation(run, source, work, on_progress or (lambda *_: None), engine or Local())
        with _kept(work / "rejected.jsonl", preparation.rejects_kept):
            counts = preparation.build()
        seal(work, key, {str(split): count for split, count in counts.items()})
        return _publish(work, folder)


def _found(folder: Path, run: Run) -> Prepared:
    """Data that are there. They may have been made by a run that allows more rejects than this one."""
    prepared = Prepared.open(folder)
    stats = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
    log = folder / "rejected.jsonl"
    check_rejects(stats["rejected"], stats["records"], run.data.max_rejected, stats["reasons"], log)
    return prepared


@contextmanager
def _kept(log: Path, path: Path) -> Iterator[None]:
    """Copy the list of rejects out of a folder that goes away when they stop the run."""
    try:
        yield
    except DataError:
        if log.is_file() and log.stat().st_size:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log, path)
        raise


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A folder beside the final one, removed when the work fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for old in folder.parent.glob(".building-*"):
        if time.time() - old.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(old, ignore_errors=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".building-{folder.name[:8]}-"))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _publish(work: Path, folder: Path) -> Prepared:
    """Give a complete folder its name. When another builder was faster, theirs stays: it holds the same."""
    work.chmod(0o755)
    if folder.exists() and not Prepared.is_complete(folder):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        work.rename(folder)
    except OSError:
        if not Prepared.is_complete(folder):
            raise
    return Prepared.open(folder)


@dataclass
class _Preparation:
    """One preparation on its way through the stages."""

    run: Run
    source: Source
    work: Path
    progress: Progress
    engine: Engine
    num_records: int = 0
    stats: Stats = field(default_factory=Stats)

    def build(self) -> dict[Split, int]:
        """All stages; the count of examples of each split."""
        (self.work / "run.json").write_text(json.dumps(self.run.dump(), indent=1, ensure_ascii=False), encoding="utf-8")
        parts = build(self.run)
        columns = self.source.columns()
        check_columns(parts.adapter, columns)
        carried = needed_columns(self.run.evaluate.slices, self.run.data.split.model_dump())
        maker = ExampleMaker(parts.adapter, parts.head, columns, carried)
        with RejectLog(self.work / "rejected.jsonl") as self.rejects:
            self._divide(self._read(maker))
            self._fit(parts.encoder, parts.head)
            counts = {split: self._encode(split, parts.encoder, parts.head) for split in SPLITS}
            self._refuse_rejects(maker)
        self._refuse_empty(counts)
        shutil.rmtree(self.work / "spool")
        self._report(parts.head, counts)
        return counts

    def _read(self, maker: ExampleMaker) -> list[Any]:
        """Write every example to the spool; the split key of each, in order."""
        keys: list[Any] = []
        identify = Identities()
        takes = tuple(maker.head.takes.model_fields)
        with StoredWriter(self.work / "spool" / "all.parquet") as spool:
            for made in self.engine.make(self.source, maker):
                self.num_records += made.num_records
                for outcome in made.outcomes:
                    try:
                        example = _accepted(outcome)
                        key = key_of(self.run.data.split, example.carried | example.values, takes)
                    except RejectedRecord as error:
                        self.rejects.add(Reject(outcome.place, str(error)))
                        continue
                    keys.append(key)
                    spool.add(_stored(identify(example.values), example))
                self.progress("reading", self.num_records, None)
        self.stats.set("repeated", identify.num_repeated)
        self._refuse_rejects(maker)
        if not keys:
            raise DataError(
                f"data.source={self.run.data.source}: its {self.num_records} records give no example: "
                f"{type(maker.adapter).__name__} leaves all of them out. Check the adapter's settings."
            )
        return keys

    def _refuse_rejects(self, maker: ExampleMaker) -> None:
        reasons = Counter(dict(self.rejects.reasons.most_common()))
        check_rejects(
            self.rejects.total,
            self.num_records,
            self.run.data.max_rejected,
            reasons,
            self.rejects_kept,
            lambda: diagnose(self.source, maker, reasons, self.num_records),
        )

    def _divide(self, keys: list[Any]) -> None:
        """Write each split to a spool of its own, `data.limit` kept."""
        spool = self.work / "spool"
        kept = self._kept(len(keys))
        sides = np.full(len(keys), -1, dtype=np.int8)
        sides[kept] = assign(self.run.data.split, [keys[index] for index in kept.tolist()])
        with ExitStack() as stack:
            writers = [stack.enter_context(StoredWriter(spool / f"{split}.parquet")) for split in SPLITS]
            for side, stored in zip(sides.tolist(), read_stored(spool / "all.parquet"), strict=True):
                if side >= 0:
                    writers[side].add(stored)
        (spool / "all.parquet").unlink()

    def _kept(self, count: int) -> Any:
        """The places of the examples with the smallest ids, which are hashes: an even draw over the source."""
        limit = self.run.data.limit
        if limit is None or limit >= count:
            return np.arange(count)
        ids = (stored.id for stored in read_stored(self.work / "spool" / "all.parquet"))
        return np.sort(np.argsort(np.fromiter(ids, dtype=np.uint64, count=count), kind="stable")[:limit])

    def _fit(self, encoder: Encoder, head: TaskHead) -> None:
        train = self.work / "spool" / "train.parquet"
        for name, part in (("head", head), ("encoder", encoder)):
            self.progress("fitting", 0, None)
            part.fit(read_values(train))
            (self.work / name).mkdir()
            part.save(self.work / name)

    def _encode(self, split: Split, encoder: Encoder, head: TaskHead) -> int:
        """Write the shards of a split, and its examples in the same order; their count."""
        stored = self.work / "spool" / f"{split}.parquet"
        with StoredWriter(self.work / "examples" / f"{split}.parquet") as examples:

            def good() -> Iterator[tuple[int, Encoded]]:
                for example, encoded in self.engine.encode(encoder, head, stored):
                    if isinstance(encoded, str):
                        self.rejects.add(Reject(example.place, encoded))
                        continue
                    examples.add(example)
                    if examples.count % CHUNK == 0:
                        self.progress(f"encoding {split}", examples.count, None)
                    yield example.id, encoded

            write_shards(good(), self.work / split)
        self.progress(f"encoding {split}", examples.count, examples.count)
        return examples.count

    def _refuse_empty(self, counts: Mapping[Split, int]) -> None:
        empty = [split for split, count in counts.items() if not count]
        if empty:
            top = self.rejects.reasons.most_common(1)
            raise DataError(
                f"every example of {empty[0]} is rejected in encoding: {top[0][0] if top else 'no reason'}."
            )

    def _report(self, head: TaskHead, counts: Mapping[Split, int]) -> None:
        self.progress("checking", 0, None)
        fields = list(type(head).takes.model_fields)
        found = leakage({split: list(_texts(self.work / "examples" / f"{split}.parquet", fields)) for split in SPLITS})
        _write_json(self.work / "leakage.json", found)
        self.stats.set("records", self.num_records)
        self.stats.set("rejected", self.rejects.total)
        self.stats.set("reasons", dict(self.rejects.reasons.most_common(20)))
        for split in SPLITS:
            targets = read_values(self.work / "examples" / f"{split}.parquet")
            self.stats.describe(split, counts[split], self.work / split, targets, head.target_fields)
        _write_json(self.work / "stats.json", self.stats.values)
        self.progress("checking", 1, 1)


def _accepted(outcome: Example | Reject) -> Example:
    if isinstance(outcome, Reject):
        raise RejectedRecord(outcome.reason)
    return outcome


def _stored(id: int, example: Example) -> Stored:
    values, carried = (json.dumps(part, ensure_ascii=False) for part in (example.values, example.carried))
    return Stored(id, example.place, values, carried)


def _texts(path: Path, fields: Iterable[str]) -> Iterator[tuple[int, str]]:
    """(id, text) of each example that has a text among the fields that the head takes."""
    for stored in read_stored(path):
        values = stored.values
        texts = [values[name] for name in fields if isinstance(values.get(name), str)]
        if texts:
            yield stored.id, "\n".join(texts)


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")
