"""The stages of one preparation: read, divide, fit, encode, report. Each is one pass over files in its work folder."""

from __future__ import annotations

import json
import shutil
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from heliostat.batch import Encoded
from heliostat.data.balance import copy_id
from heliostat.data.clean import Cleaner
from heliostat.data.diagnosis import diagnose
from heliostat.data.encode import CHUNK
from heliostat.data.engine import Engine, Progress
from heliostat.data.examples import Example, ExampleMaker, Identities, needed_columns
from heliostat.data.leakage import leakage, text_of
from heliostat.data.missing import check_columns
from heliostat.data.rejects import Reject, RejectLog, check_rejects
from heliostat.data.selection import choose
from heliostat.data.shards import write_shards
from heliostat.data.sources import Source
from heliostat.data.split import SPLITS, Split, assign, key_of, parts_of
from heliostat.data.stats import Stats
from heliostat.data.stored import Stored, StoredWriter, num_rows, read_stored, read_values
from heliostat.data.suspects import enough, suspects
from heliostat.data.touched import TouchedCounter
from heliostat.errors import DataError, RejectedRecord
from heliostat.plugin import Encoder, TaskHead
from heliostat.run import HashSplit, Run, SequenceSplit, build

Keys: TypeAlias = "list[Any] | array[float]"
"""What the split of each example hangs on; numbers are kept packed, as there may be millions."""


@dataclass
class Preparation:
    """One preparation on its way through the stages."""

    run: Run
    source: Source
    work: Path
    progress: Progress
    engine: Engine
    rejects_kept: Path
    """Where the list of rejects lies after they stop the run, when the work folder is gone."""
    stats: Stats = field(default_factory=Stats)
    firsts: array[int] = field(default_factory=lambda: array("q"))
    """For each example the place of the first one that was cut from the same sequence; else its own."""

    def build(self) -> dict[Split, int]:
        """All stages; the count of examples of each split."""
        self.touched = TouchedCounter.of(self.run.data.clean)
        (self.work / "run.json").write_text(json.dumps(self.run.dump(), indent=1, ensure_ascii=False), encoding="utf-8")
        parts = build(self.run)
        columns = self.source.columns()
        check_columns(parts.adapter, columns)
        carried = needed_columns(self.run.evaluate.slices, self.run.data.split.model_dump())
        maker = ExampleMaker(parts.adapter, parts.head, columns, carried, Cleaner.of(self.run))
        with RejectLog(self.work / "rejected.jsonl") as self.rejects:
            self._divide(self._read(maker))
            self._check_splits(parts.head)
            self._fit(parts.encoder, parts.head)
            counts = {split: self._encode(split, parts.encoder, parts.head) for split in SPLITS}
            self._refuse_rejects(maker)
        self._refuse_empty(counts)
        shutil.rmtree(self.work / "spool")
        self._report(parts.encoder, parts.head, counts)
        return counts

    def _read(self, maker: ExampleMaker) -> Keys:
        """Write every example to the spool; the split key of each, in order."""
        keys: Keys = array("d") if isinstance(self.run.data.split, HashSplit) else []
        identify, tally, told = Identities(), self.rejects.tally, 0
        self.progress("reading", 0, None)
        takes = maker.adapter.split_by or tuple(maker.head.takes.model_fields)
        with StoredWriter(self.work / "spool" / "all.parquet") as spool:
            for made in self.engine.make(self.source, maker):
                tally.records += made.num_records
                tally.examples += made.num_examples
                for example in made.outcomes:
                    if isinstance(example, Reject):
                        self.rejects.add(example)
                        continue
                    try:
                        keyed = list(self._keyed(example, takes))
                    except RejectedRecord as error:
                        self.rejects.add(Reject(example.place, str(error)))
                        continue
                    self.touched.count(example)
                    if example.language is not None:
                        continue
                    self.firsts.extend([len(keys)] * len(keyed))
                    for key, part in keyed:
                        keys.append(key)
                        spool.add(_stored(identify(part.raw or part.values), part))
                if tally.records // CHUNK > told:
                    told = tally.records // CHUNK
                    self.progress("reading", tally.records, None)
        self.stats.set("repeated", identify.num_repeated)
        self._refuse_rejects(maker)
        if not keys:
            raise DataError(
                f"data.source={self.run.data.source}: its {tally.records} records give no example: "
                f"{type(maker.adapter).__name__} leaves all of them out. Check the adapter's settings."
            )
        return keys

    def _keyed(self, example: Example, takes: Sequence[str]) -> Iterator[tuple[Any, Example]]:
        """The example with its split key; where sequences are cut, one for each split that gets a part."""
        split = self.run.data.split
        if isinstance(split, SequenceSplit):
            for name, values in parts_of(split, example.values):
                yield name, example._replace(values=values, raw=None)  # a part is told apart by what it holds
        else:
            raw = example.raw or example.values  # cleaning moves no example to another split
            yield key_of(split, example.carried | raw, takes), example

    def _refuse_rejects(self, maker: ExampleMaker) -> None:
        tally, most = self.rejects.tally, self.run.data.max_rejected
        check_rejects(tally, most, self.rejects_kept, lambda: diagnose(self.source, maker, tally))

    def _divide(self, keys: Keys) -> None:
        """Write each split to a spool of its own, `data.limit` kept."""
        spool = self.work / "spool"
        kept = self._kept(len(keys))
        sides = np.full(len(keys), -1, dtype=np.int8)
        some = keys if len(kept) == len(keys) else [keys[index] for index in kept.tolist()]
        sides[kept] = assign(self.run.data.split, some)
        times = choose(spool / "all.parquet", sides, self.run, self.touched)
        with ExitStack() as stack:
            writers = [stack.enter_context(StoredWriter(spool / f"{split}.parquet")) for split in SPLITS]
            rows = zip(memoryview(sides.data), times, read_stored(spool / "all.parquet"), strict=True)
            for side, count, stored in rows:
                for copy in range(count if side >= 0 else 0):
                    writers[side].add(stored._replace(id=copy_id(stored.id, copy)))
        (spool / "all.parquet").unlink()

    def _kept(self, count: int) -> Any:
        """The places of the examples with the smallest ids, which are hashes: an even draw over the source.

        The parts of a sequence that was cut stay together, and count as one.
        """
        limit = self.run.data.limit
        if limit is None or limit >= count:
            return np.arange(count)
        stored = read_stored(self.work / "spool" / "all.parquet")
        ids = np.fromiter((each.id for each in stored), dtype=np.uint64, count=count)
        firsts = np.frombuffer(self.firsts, dtype=np.int64)
        wholes = np.flatnonzero(np.arange(count) == firsts)
        chosen = wholes[np.argsort(ids[wholes], kind="stable")[:limit]]
        return np.flatnonzero(np.isin(firsts, chosen))

    def _check_splits(self, head: TaskHead) -> None:
        for split in SPLITS[1:]:
            path = self.work / "spool" / f"{split}.parquet"
            if num_rows(path):
                head.check_split(split, read_values(path))

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
        spool = self.work / "spool"
        empty = [split for split, count in counts.items() if not count and num_rows(spool / f"{split}.parquet")]
        if empty:
            top = self.rejects.tally.reasons.most_common(1)
            raise DataError(
                f"every example of {empty[0]} is rejected in encoding: {top[0][0] if top else 'no reason'}."
            )

    def _report(self, encoder: Encoder, head: TaskHead, counts: Mapping[Split, int]) -> None:
        self.progress("checking", 0, None)
        fields = list(type(head).takes.model_fields)
        files = {str(split): self.work / "examples" / f"{split}.parquet" for split in SPLITS}
        texts = {split: _Texts(path, fields, encoder.reads_rows) for split, path in files.items()}
        found = leakage(texts, near=not encoder.reads_rows)
        train = (each.values for each in enough(read_stored(files["train"]), counts["train"]))
        found["suspects"] = [each._asdict() for each in suspects(train, head)]
        _write_json(self.work / "leakage.json", found)
        self.stats.set("cleaning", [each._asdict() for each in self.touched.rows()])
        tally = self.rejects.tally
        self.stats.set("records", tally.records)
        self.stats.set("examples", tally.examples)
        self.stats.set("rejected", {"records": tally.rejected_records, "examples": tally.rejected_examples})
        self.stats.set("reasons", dict(tally.reasons.most_common(20)))
        for split in SPLITS:
            targets = read_values(self.work / "examples" / f"{split}.parquet")
            self.stats.describe(split, counts[split], self.work / split, targets, head.target_fields)
        _write_json(self.work / "stats.json", self.stats.values)
        self.progress("checking", 1, 1)


_as_json = json.JSONEncoder(ensure_ascii=False).encode  # as `dumps`, which makes an encoder each time


def _stored(id: int, example: Example) -> Stored:
    return Stored(id, example.place, _as_json(example.values), _as_json(example.carried))


@dataclass(frozen=True)
class _Texts:
    """(id, text) of each example of a file that has one; read anew each time."""

    path: Path
    fields: Sequence[str]
    """What the head takes."""
    of_rows: bool
    """Whether all of these fields are the text."""

    def __iter__(self) -> Iterator[tuple[int, str]]:
        for stored in read_stored(self.path):
            values = stored.values
            if self.of_rows:
                yield stored.id, json.dumps([values.get(name) for name in self.fields], ensure_ascii=False)
            elif (text := text_of(values, self.fields)) is not None:
                yield stored.id, text


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")
