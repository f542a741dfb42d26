"""Which examples of a divided source are kept, and how often: train rows that repeat others go, classes are evened."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from heliostat.data.balance import balanced
from heliostat.data.duplicates import repeats
from heliostat.data.leakage import text_of
from heliostat.data.stored import read_stored
from heliostat.data.touched import TouchedCounter
from heliostat.plugin import TaskHead
from heliostat.registry import find
from heliostat.run import Run
from heliostat.run.cleaning import text_fields

TRAIN = 0
"""The place of the train split in `SPLITS`, as sides have it; -1 is in none."""


def choose(spool: Path, sides: npt.NDArray[np.int8], run: Run, touched: TouchedCounter) -> list[int]:
    """How often each example of `spool` stands in its split: 1, unless the run says otherwise of the train split.

    Raises DataError when classes are to be balanced and examples have none.
    """
    times = [1] * len(sides)
    if run.data.clean and run.data.clean.duplicates:
        _leave_out_repeats(spool, sides, times, run, touched)
    if run.data.balance:
        _balance(spool, sides, times, run, touched)
    return times


def _leave_out_repeats(
    spool: Path, sides: npt.NDArray[np.int8], times: list[int], run: Run, touched: TouchedCounter
) -> None:
    head = find(run.head.type, TaskHead)  # type: ignore[type-abstract]
    fields = text_fields(head)
    places: list[int] = []
    train: list[str | None] = []
    held_out: list[str] = []
    for place, (side, stored) in enumerate(zip(sides.tolist(), read_stored(spool), strict=True)):
        text = text_of(stored.values, fields) if side >= 0 else None
        if side == TRAIN:
            places.append(place)
            train.append(text)
        elif text is not None:
            held_out.append(text)
    near = run.data.clean is not None and run.data.clean.duplicates == "near"
    found = repeats(train, held_out, near=near)
    for index in found.exact | found.near:
        times[places[index]] = 0
    touched.add("exact duplicates in train", len(found.exact), "left out")
    if near:
        touched.add("near duplicates in train", len(found.near), "left out")
    touched.add("of these, of valid or test", found.held_out, "left out")


def _balance(spool: Path, sides: npt.NDArray[np.int8], times: list[int], run: Run, touched: TouchedCounter) -> None:
    settings = run.data.balance
    assert settings is not None, "asked for"
    target = find(run.head.type, TaskHead).target_fields  # type: ignore[type-abstract]
    places, classes, ids = [], [], []
    for place, (side, stored) in enumerate(zip(sides.tolist(), read_stored(spool), strict=True)):
        if side == TRAIN and times[place]:
            places.append(place)
            ids.append(stored.id)
            value = stored.values.get(target[0]) if len(target) == 1 else None
            classes.append(json.dumps(value) if isinstance(value, (list, dict)) else value)
    for place, count in zip(places, balanced(classes, ids, settings), strict=True):
        times[place] = count
    before, after = len(places), sum(times[place] for place in places)
    if settings.by == "over":
        touched.add("repeated for balance", after - before, "added")
    else:
        touched.add("left out for balance", before - after, "left out")
