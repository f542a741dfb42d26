"""Who does the work that costs time in a preparation, reading and encoding: this process, or another engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from heliostat.batch import Encoded
from heliostat.data.encode import CHUNK, encode
from heliostat.data.examples import Example, ExampleMaker, grouped, unusable
from heliostat.data.rejects import Place, Reject
from heliostat.data.sources import Source
from heliostat.data.stored import Stored, chunked, read_stored
from heliostat.plugin import Encoder, TaskHead

Progress = Callable[[str, int, int | None], None]
"""Told (stage, how far, of how many or None) as work goes on; stages are reading, fitting, encoding, checking."""


class Made(NamedTuple):
    """What became of some raw records."""

    num_records: int
    outcomes: list[Example | Reject]

    @property
    def num_examples(self) -> int:
        """The examples that they gave, those among them that are rejected, too."""
        return sum(not (isinstance(each, Reject) and each.num_records) for each in self.outcomes)


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
        group_by = maker.adapter.group_by
        unread: list[Reject] = []

        def readable() -> Iterator[tuple[Place, Any]]:
            for place, row in source.rows():
                if reject := unusable(place, row, group_by):
                    unread.append(reject)
                else:
                    yield place, row

        for group in grouped(readable(), group_by, maker.adapter.order_by):
            yield Made(len(group) + _records(unread), [*unread, *maker(group)])
            unread.clear()
        yield Made(_records(unread), list(unread))

    def encode(self, encoder: Encoder, head: TaskHead, stored: Path) -> Iterator[tuple[Stored, Encoded | str]]:
        """The examples in chunks."""
        for chunk in chunked(read_stored(stored), CHUNK):
            yield from zip(chunk, encode(encoder, head, [example.values for example in chunk]), strict=True)


def _records(rejects: list[Reject]) -> int:
    return sum(reject.num_records for reject in rejects)
