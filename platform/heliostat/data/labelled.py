"""A labelled file beside the data of a run: its examples made as the run's own were, to be scored on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from heliostat.component import Row
from heliostat.data.clean import Cleaner
from heliostat.data.encode import encode
from heliostat.data.engine import Local
from heliostat.data.examples import Example, ExampleMaker, Identities, needed_columns
from heliostat.data.leakage import leakage, text_of
from heliostat.data.missing import check_columns
from heliostat.data.prepared import Prepared, Split
from heliostat.data.rejects import Reject, Tally
from heliostat.data.sources import open_source
from heliostat.data.touched import Touched, TouchedCounter
from heliostat.errors import DataError
from heliostat.plugin import Encoder, TaskHead
from heliostat.run import Run


class Ids(NamedTuple):
    """What stands for the shards of examples that are not encoded ahead."""

    ids: npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Labelled:
    """The examples of a file. In place of a run's prepared data it gives them as its test split."""

    name: str
    """What reports call it."""
    ids: npt.NDArray[np.uint64]
    rows: list[Row]
    tally: Tally
    """How much of the file was left out, and why."""
    prepared: Prepared | None
    """The run's own data: what baselines are fitted on and where leaks are looked for; None where they are gone."""
    fields: tuple[str, ...]
    """What the head takes."""
    touched: tuple[Touched, ...] = ()
    """What each step of cleaning touched in the file."""

    @property
    def counts(self) -> dict[str, int]:
        """Examples of the run's own train and valid splits, and of the file."""
        own = dict(self.prepared.counts) if self.prepared else {}
        own.pop("test", None)
        return {**own, self.name: len(self.rows)}

    def examples(self, split: Split) -> Iterator[Row]:
        """The file's examples as the test split, the run's own as the others."""
        if split == "test":
            yield from self.rows
        elif self.prepared:
            yield from self.prepared.examples(split)

    def shards(self, split: Split) -> Any:
        """What holds the ids of a split."""
        return Ids(self.ids) if split == "test" or not self.prepared else self.prepared.shards(split)

    def cleaning(self) -> list[dict[str, Any]]:
        """What cleaning touched in the file."""
        return [each._asdict() for each in self.touched]

    def leakage(self) -> dict[str, Any]:
        """How many texts of the file also stand in the run's train split."""
        if not self.prepared:
            return {}
        mine = [(int(id), text_of(row, self.fields)) for id, row in zip(self.ids, self.rows, strict=True)]
        trained = [(stored.id, text_of(stored.values, self.fields)) for stored in self.prepared.stored("train")]
        texts = {
            name: [(id, text) for id, text in found if text is not None]
            for name, found in (("file", mine), ("train", trained))
        }
        found = leakage(texts, [("file", "train")])
        return {f"{self.name}/train" if key == "file/train" else key: value for key, value in found.items()}


def read_labelled(run: Run, source: str, encoder: Encoder, head: TaskHead, prepared: Prepared | None) -> Labelled:
    """The examples of `source` (any that `data.source` takes), by the adapter of `run` and its fitted components.

    What `evaluate.slices` names is carried where the file has it. Raises DataError when it cannot be read, a column is
    missing, or more records than `data.max_rejected` do not fit.
    """
    opened = open_source(source)
    columns, adapter = opened.columns(), run.data.adapter.build()
    check_columns(adapter, columns)
    maker = ExampleMaker(adapter, head, columns, _slices(run, columns), Cleaner.of(run))
    identify, tally, touched = Identities(), Tally(), TouchedCounter.of(run.data.clean)
    found: list[tuple[int, Example]] = []
    for made in Local().make(opened, maker):
        tally.records += made.num_records
        tally.examples += made.num_examples
        for outcome in made.outcomes:
            if isinstance(outcome, Example):
                touched.count(outcome._replace(language=None))
                found.append((identify(outcome.raw or outcome.values), outcome))
            else:
                tally.add(outcome)
    encoded = encode(encoder, head, [example.values for _, example in found])
    for (_, example), fits in zip(found, encoded, strict=True):
        if isinstance(fits, str):
            tally.add(Reject(example.place, fits))
    kept = [each for each, fits in zip(found, encoded, strict=True) if not isinstance(fits, str)]
    _refuse(source, tally, len(kept), run.data.max_rejected)
    name = source.partition("#")[0].rstrip("/").rpartition("/")[2]
    ids = np.array([id for id, _ in kept], dtype=np.uint64)
    rows = [{**example.carried, **example.values} for _, example in kept]
    fields = tuple(type(head).takes.model_fields)
    return Labelled(name, ids, rows, tally, prepared, fields, tuple(touched.rows()))


def _slices(run: Run, columns: Mapping[str, str]) -> dict[str, str]:
    return needed_columns([name for name in run.evaluate.slices if name in columns], {})


def _refuse(source: str, tally: Tally, kept: int, most: float) -> None:
    if kept and tally.share <= most:
        return
    told = "; ".join(f"{reason} ({count:,})" for reason, count in tally.reasons.most_common(3))
    raise DataError(
        f"--data {source}: {tally} are no examples of this model: {told or 'it is empty'}. "
        "Name its columns as in data.adapter.text=review, or allow more with data.max_rejected=0.1."
    )
